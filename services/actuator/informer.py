"""Keeps the targets' workloads and Pods as the API server last showed them: lists them, then watches.

All targets share one watch for each kind and namespace, and one for each namespace's Pods: a connection each would cost
150 kB of memory a target.

API server --> here, pod_watch.py --> observed.py --> reconciler.py
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import structlog

from services.actuator.observed import Watched
from services.actuator.pod_watch import NamespacePods
from services.kube.changes import Listed, T, Updated
from services.kube.objects import NotFound, Rejected, StaleObject, Workload
from services.kube.owners import OwnerChains
from services.kube.target_pods import add_scale
from services.kube.watching import Change, Watcher, watch_for_ever
from services.kube.workloads import SelectorRecord, find_kind, object_name

_log = structlog.get_logger()


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
    """Keeps the observed states of all targets up to date."""

    def __init__(
        self,
        client: InformerClient,
        watched: Iterable[Watched],
        set_trouble: Callable[[str, str | None], None],
        set_note: Callable[[str, str | None], None] = lambda _what, _text: None,
        *,
        dry_run: bool = False,
        records: dict[str, SelectorRecord | None] | None = None,
    ) -> None:
        """Prepare to watch these targets' objects.

        Args:
            client: of the API.
            watched: the targets, and what is kept up to date.
            set_trouble: gets the reason for a failure by the target's key, or None.
            set_note: shows people a text about a target, or no longer (None).
            dry_run: create nothing.
            records: remembers for the next informer of this process which records were there.
        """
        self._client = client
        self._watched = {one.target.key: one for one in watched}
        self._set_trouble = set_trouble
        self._troubles: dict[tuple[str, str], str] = {}
        """Why a kind (``pods`` among them) cannot be watched in a namespace."""
        self._needs: dict[str, tuple[tuple[str, str], ...]] = {}
        """By a target's key, the watches that it depends on."""
        self._dry_run = dry_run
        self._made: dict[str, SelectorRecord | None] = {} if records is None else records
        """The records of selectors that were there, or were made, by the target's key; in a dry run they are kept."""
        chains = OwnerChains(client)
        self._pods: dict[str, NamespacePods] = {}
        for namespace in dict.fromkeys(place for one in self._watched.values() for place in one.target.pod_namespaces):
            those = {key: one for key, one in self._watched.items() if namespace in one.target.pod_namespaces}

            def report(why: str | None, place: tuple[str, str] = ("pods", namespace)) -> None:
                self._report(place, why)

            def note(key: str, where: str, text: str | None) -> None:
                set_note(f"{key} pods in {where}", text)

            self._pods[namespace] = NamespacePods(client, chains, namespace, those, report, note)

    async def run(self) -> None:
        """Watch workloads and their Pods, for ever."""
        groups: dict[tuple[str, str, str], dict[str, Watched]] = {}
        for key, one in self._watched.items():
            ref = one.target.ref
            kind = (SelectorRecord.api_version, SelectorRecord.kind) if ref is None else (ref.api_version, ref.kind)
            place = (*kind, one.target.namespace)
            groups.setdefault(place, {})[key] = one
            pods = [("pods", where) for where in one.target.pod_namespaces]
            self._needs[key] = ((" ".join(kind), one.target.namespace), *pods)
        async with asyncio.TaskGroup() as group:
            for pods_there in self._pods.values():
                group.create_task(pods_there.run())
            for (version, kind_name, namespace), those in groups.items():
                group.create_task(self._watch_objects((f"{version} {kind_name}", namespace), those))

    async def _watch_objects(self, place: tuple[str, str], watched: Mapping[str, Watched]) -> None:
        """Watch the objects of one kind and namespace, for ever."""
        names = {object_name(one.target): key for key, one in watched.items()}
        only = next(iter(names)) if len(names) == 1 else None
        first = next(iter(watched.values())).target
        kind: type[Workload] = Workload

        async def start() -> Any:
            nonlocal kind
            kind = await find_kind(self._client, first)
            return self._client.list_and_watch(kind, place[1], lambda one: one.metadata.name in names, name=only)

        async def take(change: Change, began: float) -> None:
            concerned = await self._take(kind, change, began, names)
            self._report(place, None)
            for key in concerned:
                self._notify(key)
                for namespace in watched[key].target.pod_namespaces:
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
            if key is None:
                return ()
            change = Updated(await self._add_scale(obj)) if isinstance(change, Updated) else change
            self._watched[key].state.observe(kind, change, began)
            return (key,)
        listed = {one.metadata.name: await self._add_scale(one) for one in change.objects}
        for name, key in names.items():
            found = listed.get(name)
            if kind is SelectorRecord:
                found = await self._keep_record(key, name, found)
            self._watched[key].state.observe(kind, Listed(() if found is None else (found,)), began)
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

    def _report(self, place: tuple[str, str], why: str | None) -> None:
        """Note why a watch fails, or that it does not (None)."""
        if why is None and self._troubles.pop(place, None) is None:
            return
        if why is not None:
            self._troubles[place] = why
        for key, needs in self._needs.items():
            if place in needs:
                self._notify(key)

    def _notify(self, key: str) -> None:
        """Say what keeps a target from being watched, if anything does."""
        one = self._watched[key]
        why = next((self._troubles[place] for place in self._needs[key] if place in self._troubles), None)
        if why is None and one.state.workload is None:
            ref = one.target.ref
            gone = f"its record, the Lease {object_name(one.target)}, was deleted; a restart takes it up again"
            why = gone if ref is None else f"there is no such {ref.kind}"
        self._set_trouble(key, why)
