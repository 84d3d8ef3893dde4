"""The targets that the actuator acts on, as definitions come and go.

A target that is new gets a reconciler, and one whose domain has changed goes on under its new bounds.  One of no domain
any more is restored: its annotations are put back as they were found, and that is reported.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping

import structlog

from schemas.domain import Domain, Target
from services.actuator.informer import Informer
from services.actuator.lease import Charge
from services.actuator.observed import Watched
from services.actuator.reconciler import Dependencies, Reconciler
from services.actuator.restore import build_restore_action, restore
from services.common.backoff import BackOff
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, Unavailable
from services.kube.workloads import SelectorRecord
from services.runtime.health import Health

_SETTLE_S = 1.0
"""After restoring, objects are looked at again: a patch may have been on its way."""
_STAND_BY_S = 1.0
"""How often to look whether another actuator is still in charge, which restores."""

_log = structlog.get_logger()


def has_same_pods(one: Target, other: Target) -> bool:
    """Whether two targets of one key have the same Pods."""
    return (one.ref, one.selector, one.pod_namespaces) == (other.ref, other.selector, other.pod_namespaces)


class TargetSet:
    """A reconciler for each target, the informers that they share, and what is still to be restored."""

    def __init__(self, client: KubeClient, health: Health, shared: Dependencies) -> None:
        """Begin without a target; ``run`` does the work."""
        self.reconcilers: dict[tuple[str, str], Reconciler] = {}
        """By domain and target."""
        self.has_bus_answered = False
        """Whether the bus has supplied what it holds: what comes later need not wait for it."""
        self._client = client
        self._health = health
        self._shared = shared
        self._group: asyncio.TaskGroup | None = None
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._restoring: dict[str, asyncio.Task[None]] = {}
        self._records: dict[str, SelectorRecord | None] = {}
        """The records of label selectors that were seen."""
        self._released: list[Domain] = []
        """Removed while this process did not act yet."""

    @property
    def targets(self) -> list[Target]:
        """All of them."""
        return [one.target for one in self.reconcilers.values()]

    def define(self, domains: Iterable[Domain]) -> None:
        """Act on the targets of these domains from now on."""
        wanted = {(domain.name, target.key): (domain, target) for domain in domains for target in domain.targets}
        gone = {
            key: one
            for key, one in self.reconcilers.items()
            # What has other Pods from now on is another target, although its record is the same.
            if key not in wanted or not has_same_pods(one.target, wanted[key][1])
        }
        for key, reconciler in gone.items():
            del self.reconcilers[key]
            self._forget(reconciler)
            if key not in wanted:
                self._records.pop(key[1], None)
        added = [key for key in wanted if key not in self.reconcilers]
        for key, (domain, target) in wanted.items():
            if key in self.reconcilers:
                self.reconcilers[key].define(domain, target)
                continue
            self._health.set_failed(target.key, "not yet")
            self.reconcilers[key] = Reconciler(domain, target, self._shared)
            if self.has_bus_answered:
                self.reconcilers[key].resume(None)
        if self._group is not None and (gone or added):
            self._start(gone, {target for _, target in wanted})

    async def run(self) -> None:
        """Keep all targets' limits in force, for ever."""
        async with asyncio.TaskGroup() as self._group:
            self._start({}, {target for _, target in self.reconcilers})
            for domain in self._released:
                self.release(domain)
            await asyncio.Event().wait()  # targets may come while there are none

    def release(self, domain: Domain) -> None:
        """Restore what a domain had before and no domain has now, also if it went while this process did not run."""
        if self._group is None:
            self._released.append(domain)
            return
        kept = {target for _, target in self.reconcilers}
        for target in domain.targets:
            if target.key not in kept and target.key not in self._restoring:
                self._restoring[target.key] = self._group.create_task(self._restore(domain.name, target))

    def _start(self, gone: Mapping[tuple[str, str], Reconciler], kept: set[str]) -> None:
        """Start what is new, end what is gone, and watch the objects of all that there are."""
        assert self._group is not None
        for key, reconciler in gone.items():
            running = self._running.pop(key)
            running.cancel()
            if key[1] not in kept:
                self._restoring[key[1]] = self._group.create_task(
                    self._restore(key[0], reconciler.target, after=running)
                )
        for key, reconciler in self.reconcilers.items():
            if key not in self._running:
                restoring = self._restoring.pop(key[1], None)
                if restoring is not None:
                    restoring.cancel()
                self._running[key] = self._group.create_task(reconciler.run())
        if self._watching is not None:
            self._watching.cancel()
        watched = [Watched(one.target, one.observed) for one in self.reconcilers.values()]
        health = self._health
        informer = Informer(
            self._client,
            watched,
            health.set_condition,
            health.set_note,
            dry_run=self._shared.dry_run,
            records=self._records,
        )
        self._watching = self._group.create_task(informer.run())

    def _forget(self, reconciler: Reconciler) -> None:
        """Show nothing more of a target, and wait for nothing that its reconciler had to do."""
        reconciler.retire()
        key = reconciler.target.key
        for condition in (key, f"{key} patches"):
            self._health.set_ok(condition)
        pods = (f"{key} pods in {namespace}" for namespace in reconciler.target.pod_namespaces)
        for note in (key, f"{key} decisions", f"{key} enforcement", *pods):
            self._health.set_note(note, None)

    async def _restore(self, domain: str, target: Target, after: "asyncio.Task[None] | None" = None) -> None:
        """Put a removed target's annotations back, ``after`` its reconciler, and report it; tries until it is done."""
        if after is not None:
            await asyncio.wait([after])
        about, back_off = f"{target.key} restore", BackOff(1.0, most_s=60.0)
        try:
            while True:
                if self._shared.charge(self._shared.steady()) is Charge.OTHERS:
                    await asyncio.sleep(_STAND_BY_S)
                    continue
                try:
                    results = await restore(self._client, target, dry_run=self._shared.dry_run)
                except NotFound:
                    return
                except (Rejected, Unavailable) as error:
                    self._health.set_note(about, f"removed, and not restored yet: {error}")
                    await back_off.wait()
                    continue
                if results and not self._shared.dry_run:
                    self._shared.outbox.put(build_restore_action(domain, target, results, time.time_ns()), {})
                    texts = "; ".join(f"{one.obj.kind} {one.obj.metadata.name}: {one.text}" for one in results)
                    _log.warning("removed target restored", target=target.key, domain=domain, what=texts[:1000])
                if any(one.outcome == "failed" for one in results):
                    self._health.set_note(about, "removed, and not restored in whole yet")
                    await back_off.wait()
                elif any(one.outcome == "applied" for one in results):
                    await asyncio.sleep(_SETTLE_S)
                else:
                    return
        finally:
            self._health.set_note(about, None)
            if self._restoring.get(target.key) is asyncio.current_task():
                del self._restoring[target.key]
