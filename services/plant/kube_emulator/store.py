"""The emulator's object store: Kubernetes objects, their versions, and the history of changes.

    HTTP (http_api.py) --> ObjectStore <-- controllers.py (Deployments, ReplicaSets, a stand-in for kubelets)

Every change gets the next resourceVersion and is kept in a bounded history, from which watches are
served.  An object is never changed in place: a change stores a new one, so a reader may keep
its copy.
"""

import asyncio
import secrets
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

Tree = dict[str, Any]
"""An object as JSON."""
Key = tuple[str, str | None, str]
"""Resource (``pods``, ``deployments.apps``), namespace (None: the cluster's), name."""

HISTORY = 1000
"""How many changes watches are served from; a watch that starts before them gets 410."""


class StatusError(Exception):
    """A refused request: the HTTP status code, the machine-readable reason, and a message for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Say why."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    @classmethod
    def invalid(cls, message: str) -> "StatusError":
        """422: the object that would result is not allowed."""
        return cls(422, "Invalid", message)

    def body(self) -> dict[str, Any]:
        """The refusal as a ``Status`` object."""
        return {
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Failure",
            "reason": self.reason,
            "message": self.message,
            "code": self.status,
        }


class Change(Struct, frozen=True):
    """One change of one object."""

    version: int
    key: Key
    before: Tree | None
    after: Tree | None


def now() -> str:
    """The current time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ObjectStore:
    """All objects, by key."""

    def __init__(self) -> None:
        """Begin empty."""
        self._objects: dict[Key, Tree] = {}
        self._version = 0
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """The resourceVersion of the last change."""
        return self._version

    @property
    def oldest(self) -> int:
        """The oldest resourceVersion that a watch can start after."""
        return self._history[0].version - 1 if self._history else self._version

    def compact(self) -> None:
        """Drop the history, as a server does that compacts: watches from before get 410."""
        self._history.clear()

    def changes_since(self, version: int) -> list[Change]:
        """The changes after a resourceVersion, oldest first."""
        newer = []
        for change in reversed(self._history):
            if change.version <= version:
                break
            newer.append(change)
        return newer[::-1]

    async def wait_for_change(self, after: int) -> None:
        """Wait for a change after a resourceVersion; a change that has already happened counts."""
        if self._version <= after:
            await self._changed.wait()

    def get(self, key: Key) -> Tree | None:
        """The object, or None."""
        return self._objects.get(key)

    def keys_in(self, namespace: str) -> list[Key]:
        """The keys of all objects in a namespace."""
        return [key for key in self._objects if key[1] == namespace]

    def uids(self) -> frozenset[str]:
        """The uids of all objects."""
        return frozenset(tree["metadata"]["uid"] for tree in self._objects.values())

    def list_objects(self, resource: str, namespace: str | None = None) -> Iterator[tuple[Key, Tree]]:
        """All objects of a resource, in all namespaces or in one."""
        for key, tree in list(self._objects.items()):
            if key[0] == resource and namespace in (None, key[1]):
                yield key, tree

    def create(self, key: Key, tree: Tree, *, keep: bool = True) -> Tree:
        """Store a new object and return it as stored.

        Args:
            key: where; an empty name is made up from ``metadata.generateName``.
            tree: the object as the client wrote it.
            keep: with False, only return what would be stored.

        Raises:
            StatusError: the name is taken or missing.
        """
        meta = dict(tree.get("metadata") or {})
        name = key[2] or (meta["generateName"] + secrets.token_hex(3)[:5] if meta.get("generateName") else "")
        if not name:
            raise StatusError.invalid(f"{key[0]}: metadata.name or metadata.generateName is required")
        key = (key[0], key[1], name)
        if key in self._objects:
            raise StatusError(409, "AlreadyExists", f'{key[0]} "{name}" already exists')
        meta |= {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if key[1] is not None:
            meta["namespace"] = key[1]
        if "spec" in tree:
            meta["generation"] = 1
        return self._store(key, None, tree | {"metadata": meta}, keep=keep)

    def update(self, key: Key, change: Callable[[Tree], Tree], *, status: bool = False, keep: bool = True) -> Tree:
        """Replace an object by the result of ``change`` and return it as stored.

        Args:
            key: which object.
            change: makes the new object; must not change its argument.
            status: whether the status (and annotations) change, or everything but the status.
            keep: with False, only return what would be stored.

        Raises:
            StatusError: there is no such object, or what ``change`` raises.
        """
        before = self._require(key)
        after = change(before)
        expected = after.get("metadata", {}).get("resourceVersion")
        if expected not in (None, before["metadata"]["resourceVersion"]):
            message = f'{key[0]} "{key[2]}": the object has been modified; please apply your changes to the latest'
            raise StatusError(409, "Conflict", message)
        _check(key, after)
        after = _merge_update(key, before, after, status=status)
        return before if after == before else self._store(key, before, after, keep=keep)

    def delete(self, key: Key, *, grace: bool = False, keep: bool = True) -> Tree:
        """Remove an object, or only mark it as terminating with ``grace``; return its last state.

        Raises:
            StatusError: there is no such object.
        """
        before = self._require(key)
        if not keep:
            return before
        if grace:
            if "deletionTimestamp" in before["metadata"]:
                return before
            meta = before["metadata"] | {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30}
            return self._store(key, before, before | {"metadata": meta})
        del self._objects[key]
        last = before | {"metadata": before["metadata"] | {"resourceVersion": str(self._version + 1)}}
        self._record(Change(self._version + 1, key, before, None))
        return last

    def _require(self, key: Key) -> Tree:
        tree = self._objects.get(key)
        if tree is None:
            raise StatusError(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        return tree

    def _store(self, key: Key, before: Tree | None, tree: Tree, *, keep: bool = True) -> Tree:
        _check(key, tree)
        after = tree | {"metadata": tree["metadata"] | {"resourceVersion": str(self._version + 1)}}
        if keep:
            self._objects[key] = after
            self._record(Change(self._version + 1, key, before, after))
        return after

    def _record(self, change: Change) -> None:
        self._version = change.version
        self._history.append(change)
        self._changed.set()
        self._changed = asyncio.Event()


def _check(key: Key, tree: Tree) -> None:
    """Refuse what a typed server could not decode."""
    meta = tree.get("metadata")
    if not isinstance(meta, dict):
        raise StatusError.invalid(f"{key[0]}: metadata is not an object")
    for field in ("annotations", "labels"):
        pairs = meta.get(field)
        if pairs is not None and not (isinstance(pairs, dict) and all(isinstance(v, str) for v in pairs.values())):
            raise StatusError.invalid(f"{key[0]}: metadata.{field} must map strings to strings")
    annotations = sum(len(k) + len(v) for k, v in (meta.get("annotations") or {}).items())
    if annotations > 256 * 1024:
        raise StatusError.invalid(f"{key[0]}: metadata.annotations are larger than 262144 bytes")


_FIXED = ("name", "namespace", "uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp")
"""Metadata that no client changes."""


def _merge_update(key: Key, before: Tree, after: Tree, *, status: bool) -> Tree:
    """The stored form of an update: status only through its subresource, identity fixed, generation counted here."""
    old, new = before["metadata"], dict(after["metadata"])
    if status:
        # The status subresource also accepts annotations, and does not raise the generation.
        meta = old | {"annotations": new["annotations"]} if "annotations" in new else old
        return before | {"metadata": meta} | ({"status": after["status"]} if "status" in after else {})
    for field in _FIXED:
        new.pop(field, None)
        if field in old:
            new[field] = old[field]
    tree = {**after, "metadata": new}
    if key[0] in STATUS_APART:
        tree.pop("status", None)
        if "status" in before:
            tree["status"] = before["status"]
    changed = tree.get("spec") != before.get("spec")
    # A Deployment's annotations are copied to its ReplicaSets, so they count as its specification.
    if key[0] == "deployments.apps":
        changed = changed or new.get("annotations") != old.get("annotations")
    if changed and "generation" in old:
        new["generation"] = old["generation"] + 1
    return tree


STATUS_APART = frozenset(
    {"pods", "nodes", "namespaces", "services"}
    | {f"{one}.apps" for one in ("deployments", "replicasets", "statefulsets", "daemonsets")}
    | {"jobs.batch", "cronjobs.batch"}
)
"""Resources whose status only their ``/status`` changes."""
