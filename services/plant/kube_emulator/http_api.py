"""The emulator's HTTP API: it maps requests to changes of objects.

    clients --HTTP--> kmock (server, request parsing) --> here --> ObjectStore

kmock's own object tracking lacks resourceVersion, uid, generation, selectors, PUT, dry runs and 422
for a failed JSON Patch ``test``, so the objects are kept in ``ObjectStore``.  Tests inject faults through
kmock's own language for prepared answers.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kmock
from aiohttp import web

from services.plant.kube_emulator.controllers import bind, remove
from services.plant.kube_emulator.patch import apply_patch, merge
from services.plant.kube_emulator.resources import KINDS, Kind, define_kind, kind_at, known_kinds
from services.plant.kube_emulator.selectors import build_filter
from services.plant.kube_emulator.store import Change, Key, ObjectStore, StatusError, Tree

_WATCH_S = 300.0
_BOOKMARK_S = 10.0
_RELAYED = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/:]+):(\d+)/proxy(/.*)")
_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")
_ACTIONS = {
    ("GET", False): kmock.action.LIST,
    ("POST", False): kmock.action.CREATE,
    ("GET", True): kmock.action.FETCH,
    ("PATCH", True): kmock.action.UPDATE,
    ("DELETE", True): kmock.action.DELETE,
}


class KubeApi(kmock.KubernetesScaffold):
    """A request handler for kmock's server."""

    def __init__(self, objects: ObjectStore) -> None:
        """Serve these objects."""
        super().__init__()
        self.store = objects
        self.closing = asyncio.Event()
        for kind in KINDS:
            self.resources[f"{kind.version}/{kind.plural}"].kind = kind.name
        serving: dict[kmock.action, Callable[[kmock.Request], Any]] = {
            kmock.action.LIST: self._get,
            kmock.action.WATCH: self._watch,
            kmock.action.FETCH: self._get,
            kmock.action.CREATE: self._create,
            kmock.action.UPDATE: self._update,
            kmock.action.DELETE: self._delete,
        }
        for action, serve in serving.items():
            self.fallback[action] << serve << kmock.headers({"Content-Type": "application/json"})
        self.fallback["post"] << self._create
        self.fallback["put"] << self._update
        self["get", re.compile(r"/api/v1|/apis/[^/]+/v[^/]+")] << _discover

    async def __call__(self, raw_request: Any) -> Any:
        """Serve a request.  kmock cannot parse requests for namespaces themselves, so they are parsed here."""
        if (relayed := _RELAYED.fullmatch(raw_request.path)) is not None:
            return await self._relay(*relayed.groups())
        match = re.fullmatch(r"/api/v1/namespaces(?:/([^/]+))?", raw_request.path)
        if match is None:
            return await super().__call__(raw_request)
        body = await raw_request.read()
        request = kmock.Request(
            raw_request=raw_request,
            url=raw_request.url,
            method=raw_request.method,
            params=dict(raw_request.query),
            headers=dict(raw_request.headers),
            body=body,
            data=json.loads(body) if body else None,
            action=_ACTIONS.get((raw_request.method, match[1] is not None)),
            resource=kmock.resource("", "v1", "namespaces"),
            name=match[1],
        )
        self._requests.append(request)
        return await self._handle(request)

    async def _relay(self, namespace: str, name: str, port: str, path: str) -> web.Response:
        """What a Pod answers, as the API server relays it."""
        pod = self.store.get(("pods", namespace, name))
        refusal = StatusError(404, "NotFound", f'pods "{name}" not found')
        if pod is not None:
            address = (pod.get("status") or {}).get("podIP", "")
            try:
                async with aiohttp.request("GET", f"http://{address}:{port}{path}") as answer:
                    return web.Response(status=answer.status, body=await answer.read())
            except (aiohttp.ClientError, ValueError) as error:
                text = f"error trying to reach service: {error}"
                refusal = StatusError(503, "ServiceUnavailable", text)
        return web.json_response(refusal.body(), status=refusal.status)

    async def _handle(self, request: kmock.Request) -> Any:
        try:
            return await super()._handle(request)
        except StatusError as refusal:
            error = kmock.KubernetesError(refusal.status, refusal.reason, refusal.message, {"name": request.name})
            return await self._render_error(error)
        finally:
            # kmock keeps every request for assertions and searches all of them at each new one, so drop it.
            self._requests.remove(request)
            for payload in self._payloads:
                payload._requests[:] = [one for one in payload._requests if one is not request]  # noqa: SLF001

    async def _get(self, request: kmock.Request) -> Any:
        """Return an object or its scale, list the objects of a kind, or watch them."""
        if request.name:
            key = _key(request)
            tree = self.store.get(key)
            if tree is None:
                raise StatusError(404, "NotFound", f'{key[0]} "{key[2]}" not found')
            return _scale_of(tree) if request.subresource == "scale" else tree
        if request.params.get("watch", "").lower() in ("1", "t", "true"):
            return self._watch(request)
        kind = _kind(request)
        matches = build_filter(request.params)
        return {
            "kind": f"{kind.name}List",
            "apiVersion": kind.version,
            "metadata": {"resourceVersion": str(self.store.version)},
            "items": [tree for _, tree in self.store.list_objects(kind.resource, request.namespace) if matches(tree)],
        }

    async def _watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        """Stream events from a resourceVersion on; without one, the existing objects come first."""
        kind, matches = _kind(request), build_filter(request.params)
        requested = request.params.get("resourceVersion", "")
        fresh = requested in ("", "0")
        version = self.store.version if fresh else int(requested)
        deadline = asyncio.get_running_loop().time() + float(request.params.get("timeoutSeconds") or _WATCH_S)
        yield b""  # sends the headers
        for _, tree in self.store.list_objects(kind.resource, request.namespace) if fresh else ():
            if matches(tree):
                yield {"type": "ADDED", "object": tree}
        while not self.closing.is_set():
            if not self.store.oldest <= version <= self.store.version:
                gone = StatusError(410, "Expired", f"too old resource version: {version} ({self.store.oldest})")
                yield {"type": "ERROR", "object": gone.body()}
                return
            for change in self.store.changes_since(version):
                version = change.version
                if (event := _event(change, request, kind, matches)) is not None:
                    yield event
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            if (
                not await self._wait_for_change(version, min(left, _BOOKMARK_S))
                and request.params.get("allowWatchBookmarks") == "true"
            ):
                yield {"type": "BOOKMARK", "object": {"kind": kind.name, "metadata": {"resourceVersion": str(version)}}}

    async def _wait_for_change(self, version: int, seconds: float) -> bool:
        """Wait up to ``seconds`` for a change after ``version`` or for the server to close; False if neither came."""
        waits = [asyncio.create_task(self.store.wait_for_change(version)), asyncio.create_task(self.closing.wait())]
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return bool(done)

    async def _create(self, request: kmock.Request) -> Tree:
        """Store a new object, or bind a Pod to a node."""
        key = _key(request)
        if key[0] == "pods" and request.subresource == "binding" and request.data:
            bind(self.store, key, request.data["target"]["name"])
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        if request.name:
            raise StatusError(404, "NotFound", f"there is no {key[0]}/{request.subresource} to create")
        if not isinstance(request.data, dict):
            raise StatusError(400, "BadRequest", "the body is not a JSON object")
        made = self.create(key, request.data, keep=not _is_dry_run(request))
        if key[0] == "customresourcedefinitions.apiextensions.k8s.io":
            kind = define_kind(made)
            self.resources[f"{kind.version}/{kind.plural}"].kind = kind.name
        return made

    def create(self, key: Key, tree: Tree, *, keep: bool = True) -> Tree:
        """Store a new object as a request would.

        Raises:
            StatusError: it cannot be stored.
        """
        meta = tree.get("metadata")
        if not isinstance(meta, dict):
            raise StatusError.invalid(f"{key[0]}: metadata is required")
        if key[1] is not None and self.store.get(("namespaces", None, key[1])) is None:
            raise StatusError(404, "NotFound", f'namespaces "{key[1]}" not found')
        if key[0] == "pods":
            tree = tree | {"status": {"phase": "Pending"}}
        return self.store.create((key[0], key[1], meta.get("name") or ""), tree, keep=keep)

    async def _update(self, request: kmock.Request) -> Tree:
        """Patch an object, its status or its scale, or replace it by the body of a PUT."""
        key, replaces = _key(request), request.method == kmock.method.PUT
        if replaces and not isinstance(request.data, dict):
            raise StatusError(400, "BadRequest", "the body is not a JSON object")
        content = request.headers.get("Content-Type", "").partition(";")[0]

        def change(tree: Tree) -> Tree:
            before = _scale_of(tree) if request.subresource == "scale" else tree
            after: Tree = request.data if replaces else apply_patch(content, before, request.data)
            if request.subresource == "scale":
                return merge(tree, {"spec": {"replicas": after["spec"]["replicas"]}})
            return after

        tree = self.store.update(key, change, status=request.subresource == "status", keep=not _is_dry_run(request))
        return _scale_of(tree) if request.subresource == "scale" else tree

    async def _delete(self, request: kmock.Request) -> Tree:
        key = _key(request)
        options = request.data if isinstance(request.data, dict) else {}
        grace = request.params.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        if key[0] == "pods" and str(grace) != "0" and not _is_dry_run(request):
            return remove(self.store, key)
        gone = self.store.delete(key, keep=not _is_dry_run(request))
        if key[0] == "namespaces" and not _is_dry_run(request):
            for inner in self.store.keys_in(key[2]):
                self.store.delete(inner)
        return gone


def _kind(request: kmock.Request) -> Kind:
    resource = request.resource
    if resource is None:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    return kind_at(str(resource.group), str(resource.version), str(resource.plural))


def _key(request: kmock.Request) -> Key:
    return (_kind(request).resource, request.namespace, request.name or "")


def _is_dry_run(request: kmock.Request) -> bool:
    return bool(request.params.get("dryRun") == "All")


def _scale_of(tree: Tree) -> Tree:
    meta = {key: tree["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    spec = {"replicas": tree["spec"].get("replicas", 1)}
    selector = (tree.get("status") or {}).get("selector")
    if selector is None:
        labels = (tree["spec"].get("selector") or {}).get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
    status = {"replicas": (tree.get("status") or {}).get("replicas", 0), "selector": selector}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": spec, "status": status}


def _event(change: Change, request: kmock.Request, kind: Kind, matches: Callable[[Tree], bool]) -> Tree | None:
    """The change as a watcher sees it: an object that no longer matches the selector counts as deleted."""
    resource, namespace, name = change.key
    if resource != kind.resource or request.namespace not in (None, namespace) or request.name not in (None, name):
        return None
    was = change.before is not None and matches(change.before)
    if change.after is not None and matches(change.after):
        return {"type": "MODIFIED" if was else "ADDED", "object": change.after}
    if was and change.before is not None:
        meta = change.before["metadata"] | {"resourceVersion": str(change.version)}
        return {"type": "DELETED", "object": change.before | {"metadata": meta}}
    return None


async def _discover(request: kmock.Request) -> Tree:
    """The resources of one version of one group; kmock's own answer misnames the core group."""
    version = request.url.path.removeprefix("/apis/").removeprefix("/api/")
    kinds = [kind for kind in known_kinds() if kind.version == version]
    if not kinds:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    resources = [
        {
            "name": name,
            "singularName": kind.name.lower(),
            "kind": kind.name,
            "namespaced": kind.namespaced,
            "verbs": _VERBS,
        }
        for kind in kinds
        for name in (kind.plural, *(f"{kind.plural}/{under}" for under in kind.under))
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
