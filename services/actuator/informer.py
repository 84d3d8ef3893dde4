"""Keeps the targets' workloads and Pods as the API server last showed them: lists them, then watches.

All targets share one watch for each kind and namespace, and one for each namespace's Pods: a connection each would cost
150 kB of memory a target.

API server --> here, pod_watch.py --> observed.py --> reconciler.py
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import structlog

from schemas.domain import Target
from services.actuator.observed import Watched
from services.actuator.pod_watch import NamespacePods
from services.kube.changes import Listed, T, Updated
from services.kube.objects import NotFound, Rejected, StaleObject, Workload
from services.kube.owners import OwnerChains
from services.kube.target_pods import add_scale
from services.kube.watching import Change, Watcher, watch_for_ever
from services.kube.workloads import SelectorRecord, find_kind, object_name

_PODS = "pods"

_log = structlog.get_logger()

Place = tuple[str, str]
"""What one watch is about: a version and kind, or ``pods``, and the namespace."""


class InformerClient(Watcher, Protocol):
    """What the informer needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""

    async def fetch(self, path: str) -> bytes:
        """Read what is at a path."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""

    async def create(self, kind: type[T], namespace: str, name: str, *, dry_run: bool = False) -> T:
        """Create an object that holds nothing but its name."""


class Informer:
    """Keeps the observed states of all targets up to date; targets may come and go."""

    def __init__(
        self,
        client: InformerClient,
        set_trouble: Callable[[str, str | None], None],
        set_note: Callable[[str, str | None], None] = lambda _what, _text: None,
        *,
        dry_run: bool = False,
    ) -> None:
        """Prepare; ``add`` names the targets, and ``run`` does the work.

        Args:
            client: of the API.
            set_trouble: gets the reason for a failure by the target's key, or None.
            set_note: shows people a text about a target, or no longer (None).
            dry_run: create nothing.
        """
        self._client = client
        self._chains = OwnerChains(client)
        self._set_trouble, self._set_note = set_trouble, set_note
        self._watched: dict[str, Watched] = {}
        self._troubles: dict[Place, str] = {}
        """Why a kind (``pods`` among them) cannot be watched in a namespace."""
        self._dependents: dict[Place, dict[str, None]] = {}
        """By what is watched, the targets that depend on it, in the order in which they came."""
        self._dry_run = dry_run
        self._made: dict[str, SelectorRecord | None] = {}
        """The records of selectors that were there, or were made, by the target's key; in a dry run they are kept."""
        self._pods: dict[str, NamespacePods] = {}
        self._watches: dict[Place, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def add(self, watched: Watched) -> None:
        """Watch another target's objects."""
        key = watched.target.key
        self._watched[key] = watched
        for place in _needs(watched.target):
            self._dependents.setdefault(place, {})[key] = None
            kind, namespace = place
            if kind == _PODS:
                self._find_pods(namespace).add(watched)
            self._start(place)

    def remove(self, key: str, *, is_gone: bool = True) -> None:
        """Watch a target's objects no longer; ``is_gone``: nor will there be one of that key at once."""
        target = self._watched.pop(key).target
        if is_gone:
            self._made.pop(key, None)
        for place in _needs(target):
            kind, namespace = place
            if kind == _PODS:
                self._pods[namespace].remove(key)
            del self._dependents[place][key]
            if not self._dependents[place]:
                del self._dependents[place]
                self._troubles.pop(place, None)
                self._stop(place)
                if kind == _PODS:
                    del self._pods[namespace]

    async def run(self) -> None:
        """Watch workloads and their Pods, for ever."""
        async with asyncio.TaskGroup() as self._group:
            for place in self._dependents:
                self._start(place)
            await asyncio.Event().wait()

    def _start(self, place: Place) -> None:
        """Watch a place; what is watched already is listed again, so that another target is seen."""
        if self._group is None:
            return
        kind, namespace = place
        if kind != _PODS:
            self._stop(place)
            self._watches[place] = self._group.create_task(self._watch_objects(place))
        elif place not in self._watches:
            self._watches[place] = self._group.create_task(self._pods[namespace].run())

    def _stop(self, place: Place) -> None:
        watching = self._watches.pop(place, None)
        if watching is not None:
            watching.cancel()

    def _find_pods(self, namespace: str) -> NamespacePods:
        if namespace not in self._pods:

            def report(why: str | None) -> None:
                self._report((_PODS, namespace), why)

            def note(key: str, where: str, text: str | None) -> None:
                self._set_note(f"{key} pods in {where}", text)

            self._pods[namespace] = NamespacePods(self._client, self._chains, namespace, report, note)
        return self._pods[namespace]

    async def _watch_objects(self, place: Place) -> None:
        """Watch the objects of one kind and namespace, for ever."""
        names = {object_name(self._watched[key].target): key for key in self._dependents[place]}
        only = next(iter(names)) if len(names) == 1 else None
        first = self._watched[next(iter(names.values()))].target
        kind: type[Workload] = Workload

        async def start() -> Any:
            nonlocal kind
            kind = await find_kind(self._client, first)
            return self._client.list_and_watch(kind, place[1], lambda one: one.metadata.name in names, name=only)

        async def take(change: Change, began: float) -> None:
            concerned = await self._take(kind, change, began, names)
            self._report(place, None)
            for key in concerned:
                if key not in self._watched:
                    continue
                self._notify(key)
                for namespace in self._watched[key].target.pod_namespaces:
                    self._pods[namespace].look_again(key)

        def fail(error: Exception) -> float:
            _log.warning("watch failed", namespace=place[1], kind=place[0], reason=str(error))
            what = kind.plural if kind is not Workload else place[0]
            self._report(place, f"cannot watch {what}: {error}")
            return 0.0

        await watch_for_ever(start, take, fail)

    async def _take(
        self, kind: type[Workload], change: Change, began: float, names: Mapping[str, str]
    ) -> Collection[str]:
        """Pass a change on to the targets concerned; returns their keys.

        Args:
            kind: what is watched.
            change: what was seen.
            began: when the watch began, by the event loop's clock.
            names: the targets' keys by the names of their objects.
        """
        if not isinstance(change, Listed):
            obj = change.object
            key = names.get(obj.metadata.name)
            if key not in self._watched:
                return ()
            state = self._watched[key].state
            state.observe(kind, Updated(await self._add_scale(obj)) if isinstance(change, Updated) else change, began)
            return (key,)
        listed = {one.metadata.name: await self._add_scale(one) for one in change.objects}
        for name, key in names.items():
            if key not in self._watched:
                continue
            state, found = self._watched[key].state, listed.get(name)
            if kind is SelectorRecord:
                found = await self._keep_record(key, name, found)
            state.observe(kind, Listed(() if found is None else (found,)), began)
        return names.values()

    async def _add_scale(self, obj: Any) -> Any:
        try:
            return await add_scale(self._client, obj)
        except (NotFound, Rejected) as error:
            _log.warning("scale cannot be read", object=obj.metadata.name, reason=str(error))
            return obj

    async def _keep_record(self, key: str, name: str, found: SelectorRecord | None) -> SelectorRecord | None:
        """Create the record of a selector where there is none; never again one that has been there.

        Who deletes it, as restore does, wants the target to be left alone.
        """
        if found is None and key in self._made:
            return self._made[key]
        if found is None:
            namespace = self._watched[key].target.namespace
            try:
                found = await self._client.create(SelectorRecord, namespace, name, dry_run=self._dry_run)
            except StaleObject:
                return await self._client.read(SelectorRecord, namespace, name)
            except Rejected as error:
                raise Rejected(f"{name}, a selector's record, cannot be created: {error}") from None
            self._made[key] = found if self._dry_run else None
        self._made.setdefault(key, None)
        return found

    def _report(self, place: Place, why: str | None) -> None:
        """Note why a watch fails, or that it does not (None)."""
        if why is None and self._troubles.pop(place, None) is None:
            return
        if why is not None:
            self._troubles[place] = why
        for key in self._dependents.get(place, ()):
            self._notify(key)

    def _notify(self, key: str) -> None:
        """Say what keeps a target from being watched, if anything does."""
        one = self._watched[key]
        why = next((self._troubles[place] for place in _needs(one.target) if place in self._troubles), None)
        if why is None and one.state.workload is None:
            ref = one.target.ref
            gone = f"its record, the Lease {object_name(one.target)}, was deleted; a restart takes it up again"
            why = gone if ref is None else f"there is no such {ref.kind}"
        self._set_trouble(key, why)


def _needs(target: Target) -> list[Place]:
    """The watches that a target depends on."""
    ref = target.ref
    kind = (SelectorRecord.api_version, SelectorRecord.kind) if ref is None else (ref.api_version, ref.kind)
    return [(" ".join(kind), target.namespace), *((_PODS, where) for where in target.pod_namespaces)]
