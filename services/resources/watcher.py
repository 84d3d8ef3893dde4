"""Keeps the cluster's domains up to date: lists the custom resources, then watches them.

API server --> here --> the set of definitions

Only what the API server says of a resource withdraws it.  A list that fails, a watch that ends and a kind that is not
there for a moment, as while an API server starts, leave what was seen last in force.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from typing import Protocol

import structlog

from schemas.definition import DefinitionSource
from schemas.domain import Domain
from services.kube.changes import Deleted, Listed
from services.kube.objects import NotFound, Unavailable
from services.kube.watching import Change, watch_for_ever
from services.resources.manifest import InvalidResource, read_domain
from services.resources.objects import BandwidthDomain

_ABSENT_S = 60.0
"""How often to look for a kind that is not installed, and after which time it counts as removed."""
_NOTE = "resources"
_ANSWERED = 200

_log = structlog.get_logger()


class ResourceLister(Protocol):
    """What watching needs of the API client."""

    def list_and_watch(self, kind: type[BandwidthDomain], namespace: str) -> AsyncGenerator[Change, None]:
        """Yield all objects, then every change."""


class Definitions(Protocol):
    """Where domains go: what holds, and why what was offered does not."""

    def put(self, domain: Domain, source: DefinitionSource, created: str = "") -> str | None:
        """Take a resource's domain in place of what it offered before; returns why it is refused."""

    def refuse(self, source: DefinitionSource, reason: str, created: str = "") -> None:
        """Take note that a resource describes no domain; what it offered before holds on."""

    def confirm_resources(self, sources: Iterable[DefinitionSource]) -> None:
        """Take note that these are all resources there are."""

    def withdraw(self, source: DefinitionSource) -> None:
        """Give up what a resource offered: it is gone."""


class ResourceWatcher:
    """The domains' resources as they were last seen."""

    def __init__(
        self,
        client: ResourceLister,
        definitions: Definitions,
        *,
        namespace: str = "",
        trusted: Collection[str] = (),
        on_change: Callable[[], None] = lambda: None,
        set_note: Callable[[str, str | None], None] = lambda _about, _text: None,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            definitions: gets every domain.
            namespace: the only one to look at; empty: all.
            trusted: the namespaces whose resources may limit workloads of other namespaces.
            on_change: called after a resource has changed in any way but its status.
            set_note: shows people why resources cannot be read, or that they can (None).
        """
        self.resources: dict[tuple[str, str, str], BandwidthDomain] = {}
        """By the key of their source."""
        self.has_answer = asyncio.Event()
        """Set once the API server has shown the resources, or could not."""
        self._client = client
        self._definitions = definitions
        self._namespace = namespace
        self._trusted = trusted
        self._on_change = on_change
        self._set_note = set_note
        self._absent_since: float | None = None
        self._reported = ""

    async def run(self) -> None:
        """Watch for ever: list again, with growing delays, whenever the watch ends."""
        await watch_for_ever(self._start, self._observe, self._miss)

    async def _start(self) -> AsyncGenerator[Change, None]:
        return self._client.list_and_watch(BandwidthDomain, self._namespace)

    def _miss(self, error: Exception) -> float:
        """Take note that the resources cannot be read; gives the least delay before the next attempt, seconds."""
        self.has_answer.set()
        if not isinstance(error, NotFound):
            # What is answered, and cannot be read, is somebody's doing: one resource may hide all others.
            is_odd = isinstance(error, Unavailable) and error.status == _ANSWERED
            self._report(f"the kind {BandwidthDomain.kind} cannot be read: {error}", always=is_odd)
            return 0.0
        # There is no such kind: it was never installed, was removed, or the server is only starting.
        now = time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        if now - self._absent_since >= _ABSENT_S:
            for resource in tuple(self.resources.values()):
                self._lose(resource)
            self._definitions.confirm_resources(())
        if self.resources:
            return 0.0
        self._report(f"the kind {BandwidthDomain.kind} is not installed ({error}): domains come from the file alone")
        return _ABSENT_S

    async def _observe(self, change: Change, _began: float) -> None:
        self._absent_since, self._reported = None, ""
        self._set_note(_NOTE, None)
        if isinstance(change, Listed):
            listed = {one.source.key: one for one in change.objects}
            for key in self.resources.keys() - listed.keys():
                self._lose(self.resources[key])
            for one in listed.values():
                self._see(one)
            self._definitions.confirm_resources([one.source for one in self.resources.values()])
            self.has_answer.set()
        elif isinstance(change, Deleted):
            self._lose(change.object)
        else:
            self._see(change.object)

    def _see(self, resource: BandwidthDomain) -> None:
        """Offer a resource's domain, unless only its status has changed."""
        if resource.is_going:
            self._lose(resource)
            return
        key = resource.source.key
        known = self.resources.get(key)
        self.resources[key] = resource
        if known is not None and (known.source, known.pause) == (resource.source, resource.pause):
            return
        meta = resource.metadata
        if known is None or known.source != resource.source:
            try:
                domain = read_domain(meta.namespace, meta.name, resource.spec, self._trusted)
            except InvalidResource as error:
                _log.warning("resource refused", namespace=meta.namespace, name=meta.name, reason=str(error))
                self._definitions.refuse(resource.source, str(error), meta.creation_timestamp)
            else:
                why = self._definitions.put(domain, resource.source, meta.creation_timestamp)
                _log.info("resource read", namespace=meta.namespace, name=meta.name, refused=why)
        self._on_change()

    def _lose(self, resource: BandwidthDomain) -> None:
        if self.resources.pop(resource.source.key, None) is not None:
            _log.info("resource gone", namespace=resource.metadata.namespace, name=resource.metadata.name)
            self._definitions.withdraw(resource.source)
            self._on_change()

    def _report(self, text: str, *, always: bool = False) -> None:
        """Log once what is wrong, and show it as long as it is: where resources were known, or ``always``."""
        kind = text.partition(":")[0]
        if kind != self._reported:
            self._reported = kind
            _log.info("resources", text=text)
        self._set_note(_NOTE, text if self.resources or always else None)
