"""The OpenAPI document is that of the types, and every address in it is served."""

import json
from importlib.metadata import version
from typing import Any

from services.ui import openapi
from services.ui.guard import LOOPBACK
from services.ui.server import UiServer
from services.ui.sources import Recordings


def find_references(tree: Any) -> set[str]:
    """Every ``$ref`` in a document."""
    if isinstance(tree, dict):
        own = {tree["$ref"]} if "$ref" in tree else set()
        return own.union(*map(find_references, tree.values()))
    return set().union(*map(find_references, tree)) if isinstance(tree, list) else set()


def test_the_file_is_up_to_date() -> None:
    """``make schemas`` writes it."""
    assert json.loads(openapi.FILE.read_text(encoding="utf-8")) == openapi.build_document(version("sluice"))


def test_every_reference_leads_somewhere() -> None:
    """And every field of an answer is described where its name does not say it all."""
    document = openapi.build_document("1")
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert find_references(document) <= names
    assert document["components"]["schemas"]["DomainView"]["properties"]["headroom"]["description"]


def test_every_address_is_served() -> None:
    """By its method; the document itself is, too."""
    application = UiServer(None, None, Recordings(uploads=True)).build_application(LOOPBACK)
    served = {(route.method, route.resource.canonical) for route in application.router.routes() if route.resource}
    listed = {(method.upper(), path) for path, of in openapi.build_document("1")["paths"].items() for method in of}
    assert listed <= served
    assert ("GET", "/api/v1/openapi.json") in served
