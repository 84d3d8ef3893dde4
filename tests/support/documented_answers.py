"""The OpenAPI document of the page, as a test of its real answers."""

import json
from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema

from services.ui import openapi

_DOCUMENT = json.loads(openapi.FILE.read_text(encoding="utf-8"))


def _close(tree: Any) -> Any:
    """Forbid fields that the document does not name."""
    if isinstance(tree, dict):
        if "properties" in tree and tree.get("type") == "object":
            tree["additionalProperties"] = False
        for one in tree.values():
            _close(one)
    elif isinstance(tree, list):
        for one in tree:
            _close(one)
    return tree


@cache
def _build_validator(reference: str) -> jsonschema.Draft202012Validator:
    components = _close(deepcopy(_DOCUMENT["components"]))
    return jsonschema.Draft202012Validator({"$ref": reference, "components": components})


def require_documented(method: str, path: str, status: int, body: Any) -> None:
    """Raise ``jsonschema.ValidationError`` for an answer that is not what the document says of its address."""
    operation = _DOCUMENT["paths"].get(f"/{openapi.PREFIX}{path.partition('?')[0]}", {}).get(method)
    if operation is None:
        assert status == 404, f"{method} {path} is not in the document"
        reference = "#/components/schemas/Problem"
    else:
        answer = operation["responses"].get(str(status), operation["responses"]["default"])
        reference = answer["content"]["application/json"]["schema"]["$ref"]
    _build_validator(reference).validate(body)


def require_documented_event(name: str, body: Any) -> None:
    """Raise ``jsonschema.ValidationError`` for an event that is not what the document says."""
    kind = {"overview": "OverviewUpdate", "history": "HistoryUpdate"}[name]
    _build_validator(f"#/components/schemas/{kind}").validate(body)
