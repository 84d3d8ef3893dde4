"""The emulator's patches: JSON Patch and merge patch, as an API server applies them."""

import copy
from typing import Any

import jsonpatch

from services.plant.kube_emulator.store import StatusError, Tree

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


def apply_patch(kind: str, tree: Tree, patch: Any) -> Tree:
    """A patched copy of an object.

    Args:
        kind: the patch's content type.
        tree: the object.
        patch: a list of operations for JSON Patch, else an object.

    Raises:
        StatusError: the patch cannot be read (400), cannot be applied (422), or is of another kind (415).
    """
    if kind == JSON_PATCH:
        if not isinstance(patch, list):
            raise StatusError(400, "BadRequest", "a JSON Patch is a list of operations")
        try:
            patched: Any = copy.deepcopy(tree)
            for operation in patch:
                if not _tests_absence(patched, operation):
                    patched = jsonpatch.JsonPatch([operation]).apply(patched, in_place=True)
            return _require_object(patched)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise StatusError.invalid(
                f"the server rejected our request due to an error in our request: {error}"
            ) from None
    if kind in (MERGE_PATCH, STRATEGIC_MERGE_PATCH):
        if not isinstance(patch, dict):
            raise StatusError(400, "BadRequest", "a merge patch is an object")
        if kind == STRATEGIC_MERGE_PATCH and _holds_list(patch):
            raise StatusError(
                415, "UnsupportedMediaType", "this server merges no lists strategically: use a merge patch"
            )
        return _require_object(merge(tree, patch))
    raise StatusError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind!r}")


def _tests_absence(tree: Any, operation: Any) -> bool:
    """Whether an operation tests for null where no member exists: API servers accept it, RFC 6902 does not."""
    if not isinstance(operation, dict) or operation.get("op") != "test" or operation.get("value", ...) is not None:
        return False
    inner, part = jsonpatch.JsonPointer(operation["path"]).to_last(tree)
    return isinstance(inner, dict) and part not in inner


def merge(tree: Tree, patch: Tree) -> Tree:
    """JSON Merge Patch (RFC 7386), into a copy."""
    merged = dict(tree)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = merge(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _require_object(tree: Any) -> Tree:
    if not isinstance(tree, dict) or not isinstance(tree.get("metadata"), dict):
        raise StatusError.invalid("the patched object is no object with metadata")
    return tree


def _holds_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and any(_holds_list(one) for one in value.values()))
