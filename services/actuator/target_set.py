"""The targets that the actuator acts on, as definitions come and go.

A target that is new gets a reconciler, and one whose domain has changed goes on under its new bounds.  One of no domain
any more is restored: its annotations are put back as they were found, and that is reported.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog

from schemas.domain import Domain, Target
from services.actuator.dependencies import Dependencies
from services.actuator.informer import Informer
from services.actuator.lease import Charge
from services.actuator.observed import Watched
from services.actuator.reconciler import Reconciler
from services.actuator.restore import build_restore_action, restore
from services.common.backoff import BackOff
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Rejected, Unavailable
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
    """A reconciler for each target, the informer that they share, and what is still to be restored."""

    def __init__(self, client: KubeClient, health: Health, shared: Dependencies) -> None:
        """Begin without a target; ``run`` does the work."""
        self.reconcilers: dict[tuple[str, str], Reconciler] = {}
        """By domain and target."""
        self.has_bus_answered = False
        """Whether the bus has supplied what it holds: what comes later need not wait for it."""
        self._client = client
        self._health = health
        self._shared = shared
        self._informer = Informer(client, health.set_condition, health.set_note, dry_run=shared.dry_run)
        self._keys: dict[str, set[str]] = {}
        """By domain, its targets."""
        self._owners: dict[str, str] = {}
        """By target, its domain."""
        self._busy: dict[str, asyncio.Task[None]] = {}
        """Who works on a target's objects, or will: each waits for the one before."""
        self._restoring: dict[str, asyncio.Event] = {}
        """By target that is being restored, whether it is a target again."""
        self._group: asyncio.TaskGroup | None = None
        self._released: list[Domain] = []
        """Removed while this process did not act yet."""

    @property
    def targets(self) -> list[Target]:
        """All of them."""
        return [one.target for one in self.reconcilers.values()]

    def define(self, changed: Mapping[str, Domain | None]) -> None:
        """Act on the targets of these domains as they are from now on; None: the domain is gone."""
        domains = [domain for domain in changed.values() if domain is not None]
        wanted = {(domain.name, target.key): (domain, target) for domain in domains for target in domain.targets}
        known = {(name, key) for name in changed for key in self._keys.get(name, ())}
        # What has other Pods from now on is another target, although its record is the same.
        gone = {
            one: self._drop(*one)
            for one in known
            if one not in wanted or not has_same_pods(self.reconcilers[one].target, wanted[one][1])
        }
        added: dict[str, Reconciler] = {}
        for one, (domain, target) in wanted.items():
            if one in self.reconcilers:
                self.reconcilers[one].define(domain, target)
            else:
                added[target.key] = self._add(domain, target)
        for (name, key), before in gone.items():
            self._informer.remove(key, is_gone=key not in added)
            if key in added:
                added[key].observed.inherit(before.observed)
            self._give_up(name, before)
        for key, new in added.items():
            self._informer.add(Watched(new.target, new.observed))
            if self._group is not None:
                self._start(key, new.run())

    def _add(self, domain: Domain, target: Target) -> Reconciler:
        self._health.set_failed(target.key, "not yet")
        one = self.reconcilers[domain.name, target.key] = Reconciler(domain, target, self._shared)
        self._keys.setdefault(domain.name, set()).add(target.key)
        self._owners[target.key] = domain.name
        if target.key in self._restoring:
            self._restoring[target.key].set()
        if self.has_bus_answered:
            one.resume(None)
        return one

    def _drop(self, name: str, key: str) -> Reconciler:
        self._keys[name].discard(key)
        if not self._keys[name]:
            del self._keys[name]
        del self._owners[key]
        one = self.reconcilers.pop((name, key))
        one.stop()
        return one

    async def run(self) -> None:
        """Keep all targets' limits in force, for ever."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._informer.run())
            for (_, key), one in self.reconcilers.items():
                self._start(key, one.run())
            for domain in self._released:
                self.release(domain)
            await asyncio.Event().wait()  # targets may come while there are none

    def release(self, domain: Domain) -> None:
        """Restore what a domain had before and no domain has now, also if it went while this process did not run."""
        if self._group is None:
            self._released.append(domain)
            return
        for target in domain.targets:
            if target.key not in self._owners and target.key not in self._busy:
                self._start(target.key, self._restore(domain.name, target))

    def _give_up(self, name: str, reconciler: Reconciler) -> None:
        """Restore a target that is gone, once its reconciler has ended."""
        if self._group is None:
            self._forget(reconciler)
            return

        async def end() -> None:
            self._forget(reconciler)
            await self._restore(name, reconciler.target)

        self._start(reconciler.target.key, end())

    def _start(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        """Work on a target's objects once whoever does so has ended."""
        assert self._group is not None
        before = self._busy.get(key)

        async def work_in_turn() -> None:
            try:
                if before is not None:
                    await asyncio.wait([before])
                await work
            finally:
                work.close()
                if self._busy.get(key) is asyncio.current_task():
                    del self._busy[key]

        self._busy[key] = self._group.create_task(work_in_turn())

    def _forget(self, reconciler: Reconciler) -> None:
        """Show nothing more of a target that another may have taken the place of."""
        reconciler.retire()
        key = reconciler.target.key
        for condition in (f"{key} patches", *(() if key in self._owners else (key,))):
            self._health.set_ok(condition)
        pods = (f"{key} pods in {namespace}" for namespace in reconciler.target.pod_namespaces)
        for note in (key, f"{key} decisions", f"{key} enforcement", *pods):
            self._health.set_note(note, None)

    async def _restore(self, domain: str, target: Target) -> None:
        """Put a removed target's annotations back, and report it; tries until it is done, or it is a target again."""
        about, back_off = f"{target.key} restore", BackOff(1.0, most_s=60.0)
        again = self._restoring[target.key] = asyncio.Event()

        async def wait(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await again.wait()

        try:
            while target.key not in self._owners:
                if self._shared.find_charge(domain)(self._shared.steady()) is Charge.OTHERS:
                    await wait(_STAND_BY_S)
                    continue
                try:
                    results = await restore(self._client, target, dry_run=self._shared.dry_run)
                except NotFound:
                    return
                except (Rejected, Unavailable) as error:
                    self._health.set_note(about, f"removed, and not restored yet: {error}")
                    await wait(back_off.next_s())
                    continue
                if results and not self._shared.dry_run:
                    self._shared.outbox.put(build_restore_action(domain, target, results, time.time_ns()), {})
                    texts = "; ".join(f"{one.obj.kind} {one.obj.metadata.name}: {one.text}" for one in results)
                    _log.warning("removed target restored", target=target.key, domain=domain, what=texts[:1000])
                if any(one.outcome == "failed" for one in results):
                    self._health.set_note(about, "removed, and not restored in whole yet")
                    await wait(back_off.next_s())
                elif any(one.outcome == "applied" for one in results):
                    await wait(_SETTLE_S)
                else:
                    return
        finally:
            del self._restoring[target.key]
            self._health.set_note(about, None)
