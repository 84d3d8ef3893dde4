"""The OpenAPI document of the page's JSON API, generated from its types."""

import importlib.metadata
import inspect
import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

import schemas.generate
from schemas.reference import describe
from services.ui import views
from services.ui.queries import ActionsQuery, EventsQuery, HistoryQuery, NoQuery, OverviewQuery, StoryQuery, UploadQuery
from services.ui.views import (
    Actions,
    DomainHistory,
    HistoryUpdate,
    Overview,
    OverviewUpdate,
    Policies,
    Problem,
    Sources,
    SourceView,
    Story,
    WhatIf,
    WhatIfAnswer,
)

PREFIX = "api/v1/"
"""All addresses are relative to where the page is."""
_REF = "#/components/schemas/{name}"
FILE = schemas.generate.HOME / "ui.openapi.json"
STREAM = "text/event-stream"
BYTES = "application/octet-stream"


class Route(Struct, frozen=True):
    """One address."""

    method: str
    path: str
    """Behind the prefix."""
    summary: str
    query: type[Struct]
    answer: type[Struct] | None
    """None: a stream of events."""
    body: type[Struct] | None = None
    raw: bool = False
    """Whether the body is a recording's bytes."""


ROUTES = (
    Route("GET", "sources", "The bus and the recordings that the page can show", NoQuery, Sources),
    Route("GET", "overview", "All domains, the worst first, now or at a time", OverviewQuery, Overview),
    Route("GET", "domain", "One domain over a stretch of time: curves, incidents, marks", HistoryQuery, DomainHistory),
    Route("GET", "actions", "A search over the actions of a stretch of time", ActionsQuery, Actions),
    Route("GET", "story", "Sample, decision and actions that belong together, explained", StoryQuery, Story),
    Route("GET", "policies", "The policies that a what-if may choose, with their parameters", NoQuery, Policies),
    Route(
        "POST", "what-if", "Limits under another policy, other parameters or objectives", NoQuery, WhatIfAnswer, WhatIf
    ),
    Route("POST", "recordings", "Send a recording to look at", UploadQuery, SourceView, raw=True),
    Route("GET", "events", "What changes, as it changes: events `overview`, `history`, `resync`", EventsQuery, None),
)


def build_document(version: str) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document; ``version`` is Sluice's."""
    structs = {kind for route in ROUTES for kind in (route.answer, route.body) if kind is not None}
    structs |= {Problem, OverviewUpdate, HistoryUpdate}
    _, components = msgspec.json.schema_components(sorted(structs, key=lambda one: one.__name__), ref_template=_REF)
    for name, schema in components.items():
        kind = getattr(views, name, None)
        if kind is not None and not schema.get("prefixItems"):
            for field in describe(kind):
                if field.meaning and field.name in schema.get("properties", {}):
                    schema["properties"][field.name]["description"] = field.meaning
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(f"/{PREFIX}{route.path}", {})[route.method.lower()] = build_operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice's page",
            "version": version,
            "description": inspect.cleandoc(views.__doc__ or "").replace("``", "`"),
        },
        "servers": [{"url": "../..", "description": "Wherever the page is, behind any path."}],
        "paths": paths,
        "components": {"schemas": components},
    }


def build_operation(route: Route) -> dict[str, Any]:
    """Build what the document says of an address."""
    found: dict[str, Any] = {"operationId": route.path, "summary": route.summary}
    if parameters := list(build_parameters(route.query)):
        found["parameters"] = parameters
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _refer(route.body)}}}
    elif route.raw:
        found["requestBody"] = {"required": True, "content": {BYTES: {}}}
    if route.answer is None:
        data = {"anyOf": [_refer(OverviewUpdate), _refer(HistoryUpdate)], "description": "Each event's data."}
        content: dict[str, Any] = {STREAM: {"schema": data}}
    else:
        content = {"application/json": {"schema": _refer(route.answer)}}
    wrong = {"application/json": {"schema": _refer(Problem)}}
    found["responses"] = {
        "200": {"description": "The answer.", "content": content},
        "default": {"description": "Why there is none.", "content": wrong},
    }
    return found


def build_parameters(query: type[Struct]) -> Iterable[dict[str, Any]]:
    """Build what the document says of the parameters."""
    _, components = msgspec.json.schema_components([query], ref_template=_REF)
    schema = components[query.__name__]
    meanings = {field.name: field.meaning for field in describe(query)}
    for name, one in schema["properties"].items():
        required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": required, "schema": one, "description": meanings.get(name, "")}


def _refer(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def write_document() -> None:
    """Write ``schemas/ui.openapi.json``; a test compares it with the types."""
    text = json.dumps(build_document(importlib.metadata.version("sluice")), indent=2, ensure_ascii=False) + "\n"
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_document()
