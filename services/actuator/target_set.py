"""The targets that the actuator acts on, as definitions come and go.

A target that is new gets a reconciler, and one whose domain has changed goes on under its new bounds.  One of no domain
any more is restored: its annotations are put back as they were found, and that is reported.

Where actuators share the domains, each has the reconcilers of all.  Those of domains that another acts on rest: they
have never begun.  When a domain changes hands, its reconcilers are replaced by new ones, which begin as after a start.

A definition with an instance for each place has one reconciler for each of them and target.  They share what is seen of
the target, which is its template's: that is restored with the template, while an instance that goes leaves no Pod.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from schemas.domain import Domain, Target
from services.actuator.dependencies import Dependencies
from services.actuator.informer import Informer
from services.actuator.observed import ObservedState, Watched
from services.actuator.ownership import PART
from services.actuator.places.placement import Placement
from services.actuator.places.spread_target import SpreadTarget
from services.actuator.reconciler import Reconciler
from services.actuator.restore import build_restore_action, restore
from services.actuator.shards.lease import Charge
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

    def __init__(
        self,
        client: KubeClient,
        health: Health,
        shared: Dependencies,
        placement: Placement | None = None,
        is_ours: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Begin without a target; ``run`` does the work.

        Args:
            client: of the API.
            health: of this process.
            shared: by all reconcilers.
            placement: tells where Pods are.
            is_ours: whether this process acts on a domain, by its name; see ``reassign``.
        """
        self._is_ours = is_ours
        self.reconcilers: dict[tuple[str, str], Reconciler] = {}
        """By domain and target."""
        self.spread: dict[str, SpreadTarget] = {}
        """By target, those that are limited place by place."""
        self.has_bus_answered = False
        """Whether the bus has supplied what it holds: what comes later need not wait for it."""
        self._client = client
        self._health = health
        self._shared = shared
        self._placement = placement or Placement(client, lambda _template, _places, _critical: None)
        self._placement.on_labels(self._place_again)
        self._informer = Informer(client, health.set_condition, health.set_note, dry_run=shared.dry_run)
        self._keys: dict[str, set[str]] = {}
        """By domain, its targets."""
        self._owners: dict[str, str] = {}
        """By target, its domain; of one that is limited place by place, its template."""
        self._busy: dict[str, asyncio.Task[None]] = {}
        """Who works on a target's objects, or on a part of them, or will: each waits for the one before."""
        self._restoring: dict[str, asyncio.Event] = {}
        """By target that is being restored, whether it is a target again."""
        self._group: asyncio.TaskGroup | None = None
        self._released: list[Domain] = []
        """Removed while this process did not act yet."""

    @property
    def targets(self) -> list[Target]:
        """All of them."""
        whole = [one.target for one in self.reconcilers.values() if not one.extent.is_part]
        return whole + [one.target for one in self.spread.values()]

    def define(self, changed: Mapping[str, Domain | None]) -> None:
        """Act on the targets of these domains as they are from now on; None: the domain is gone."""
        parts = {
            name: domain
            for name, domain in changed.items()
            if (domain is not None and domain.on) or any(self._is_part(name, key) for key in self._keys.get(name, ()))
        }
        self._define_whole({name: domain for name, domain in changed.items() if name not in parts})
        for name, domain in parts.items():
            self._define_instance(name, domain)

    def _is_part(self, name: str, key: str) -> bool:
        one = self.reconcilers.get((name, key))
        return one is not None and one.extent.is_part

    def _define_whole(self, changed: Mapping[str, Domain | None]) -> None:
        """Act on domains that are no instances, templates among them."""
        self._placement.define({name: one if one and one.is_template else None for name, one in changed.items()})
        domains = [domain for domain in changed.values() if domain is not None]
        wanted = {(domain.name, target.key): (domain, target) for domain in domains for target in domain.targets}
        known = {(name, key) for name in changed for key in self._keys.get(name, ())}
        # What has other Pods from now on is another target, although its record is the same.
        gone = {one: self._drop(*one) for one in known if one not in wanted or not self._is_same(*one, *wanted[one])}
        added: dict[str, Reconciler | SpreadTarget] = {}
        for one, (domain, target) in wanted.items():
            if one in known and one not in gone:
                (self.spread[target.key] if domain.is_template else self.reconcilers[one]).define(domain, target)
            else:
                added[target.key] = self._add(domain, target)
        for (name, key), before in gone.items():
            self._informer.remove(key, is_gone=key not in added)
            if key in added:
                _inherit(added[key], before)
            self._give_up(name, before)
        for key, new in added.items():
            self._informer.add(Watched(new.target, new.observed))
            self._begin(key, new)

    def _is_same(self, name: str, key: str, domain: Domain, target: Target) -> bool:
        """Whether a target goes on under another definition, with the same Pods."""
        known = self.spread[key] if domain.is_template and key in self.spread else self.reconcilers.get((name, key))
        return (
            known is not None
            and domain.is_template == isinstance(known, SpreadTarget)
            and has_same_pods(known.target, target)
        )

    def _add(self, domain: Domain, target: Target) -> Reconciler | SpreadTarget:
        self._health.set_failed(target.key, "not yet")
        self._keys.setdefault(domain.name, set()).add(target.key)
        self._owners[target.key] = domain.name
        if target.key in self._restoring:
            self._restoring[target.key].set()
        if domain.is_template:
            is_summing = partial(self.is_summing, target.key)
            new = self.spread[target.key] = SpreadTarget(domain, target, self._shared, self._placement, is_summing)
            return new
        return self._add_reconciler(domain, target, None)

    def _add_reconciler(self, domain: Domain, target: Target, observed: ObservedState | None) -> Reconciler:
        one = self.reconcilers[domain.name, target.key] = self._build_reconciler(domain, target, observed)
        # Of an instance the bus may hold a decision: after a restart it comes later than others.
        if self.has_bus_answered and observed is None:
            one.resume(None)
        return one

    def _build_reconciler(self, domain: Domain, target: Target, observed: ObservedState | None) -> Reconciler:
        one = Reconciler(domain, target, self._shared, observed)
        one.is_resting = not self._is_ours(domain.name)
        if one.is_resting:
            # The actuator in charge puts them back; here nothing else would forget them.
            one.observed.listen(one.observed.given_up.clear)
        return one

    def _drop(self, name: str, key: str) -> Reconciler | SpreadTarget:
        self._keys[name].discard(key)
        if not self._keys[name]:
            del self._keys[name]
        del self._owners[key]
        one: Reconciler | SpreadTarget = self.reconcilers.pop((name, key), None) or self.spread.pop(key)
        one.stop()
        return one

    def _define_instance(self, name: str, domain: Domain | None) -> None:
        """Act on the parts of an instance as it is from now on; None: it is gone, and so are its Pods."""
        wanted = {} if domain is None else {target.key: target for target in domain.targets}
        for key in tuple(self._keys.get(name, ())):
            one = self.reconcilers[name, key]
            spread = self.spread.get(key)
            is_there = spread is not None and spread.observed.parts.get(_place_of(one)) is one.observed
            if domain is not None and key in wanted and is_there:
                one.define(domain, wanted[key])
            else:
                self._drop_part(name, key)
        for key, target in wanted.items():
            spread = self.spread.get(key)
            if domain is not None and spread is not None and (name, key) not in self.reconcilers:
                self._keys.setdefault(name, set()).add(key)
                one = self._add_reconciler(domain, target, spread.observed.get_part(domain.on or ""))
                self._begin(one.extent.name, one)

    def _drop_part(self, name: str, key: str) -> None:
        self._keys[name].discard(key)
        if not self._keys[name]:
            del self._keys[name]
        one = self.reconcilers.pop((name, key))
        one.stop()
        if key in self.spread:
            self.spread[key].observed.drop_part(_place_of(one), one.observed)
        if self._group is None:
            self._forget(one)
        else:
            self._start(one.extent.name, self._end(one))

    async def _end(self, one: Reconciler) -> None:
        """Show nothing more of a reconciler that has ended."""
        self._forget(one)

    def is_summing(self, key: str) -> bool:
        """Whether this process writes the sum of a target's parts: one actuator, that of the template's shard.

        Where nobody is known to be in charge, it is whoever sets a part's limit.
        """
        charge = self._shared.find_charge(self._owners.get(key, ""))(self._shared.steady())
        if charge is not Charge.UNKNOWN:
            return charge is Charge.MINE
        return any(one.is_acting for (_, known), one in self.reconcilers.items() if known == key)

    def _place_again(self) -> None:
        for one in self.spread.values():
            one.observed.place_again()

    def reassign(self, domains: Collection[str]) -> None:
        """Begin anew with domains that are ours from now on, and let those rest that are no longer."""
        for (name, key), before in [pair for pair in self.reconcilers.items() if pair[0][0] in domains]:
            before.stop()
            one = self.reconcilers[name, key] = self._build_reconciler(before.domain, before.target, before.observed)
            if self._group is not None:
                self._start(one.extent.name, self._end(before))
                self._begin(one.extent.name, one)

    def wake(self) -> None:
        """Look at every target again: who is in charge has changed."""
        for one in self.reconcilers.values():
            one.wake()
        for spread in self.spread.values():
            spread.wake()

    async def run(self) -> None:
        """Keep all targets' limits in force, for ever."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._informer.run())
            self._group.create_task(self._placement.run())
            for one in self.reconcilers.values():
                self._begin(one.extent.name, one)
            for key, spread in self.spread.items():
                self._begin(key, spread)
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

    def _give_up(self, name: str, one: Reconciler | SpreadTarget) -> None:
        """Restore a target that is gone, once whoever works on it or on a part of it has ended."""
        key = one.target.key
        if isinstance(one, SpreadTarget):
            for instance, known in [pair for pair in self.reconcilers if pair[1] == key and self._is_part(*pair)]:
                self._drop_part(instance, known)
        if self._group is None:
            self._forget(one)
            return
        parts = [task for name, task in self._busy.items() if name.startswith(f"{key}{PART}")]

        async def end() -> None:
            if parts:
                await asyncio.wait(parts)
            self._forget(one)
            await self._restore(name, one.target)

        self._start(key, end())

    def _begin(self, key: str, one: Reconciler | SpreadTarget) -> None:
        """Run it, unless this process does not act yet, or another one acts on its domain."""
        if self._group is not None and not (isinstance(one, Reconciler) and one.is_resting):
            self._start(key, one.run())

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

    def _forget(self, one: Reconciler | SpreadTarget) -> None:
        """Show nothing more of a target, or of a part, that another may have taken the place of."""
        one.retire()
        key = one.target.key if isinstance(one, SpreadTarget) else one.extent.name
        for condition in (f"{key} patches", f"{key} round", *(() if key in self._owners else (key,))):
            self._health.set_ok(condition)
        # What is odd about its Pods is the informer's to tell while the target is one.
        pods = [] if key in self._owners else [f"{key} pods in {where}" for where in one.target.pod_namespaces]
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


def _place_of(one: Reconciler) -> str:
    """The place of a part, as the observed parts have it."""
    return one.domain.on or ""


def _inherit(one: Reconciler | SpreadTarget, before: Reconciler | SpreadTarget) -> None:
    """Take the Pods of a target of the same key, unless they are seen again, as given up."""
    if isinstance(one, SpreadTarget) and isinstance(before, SpreadTarget):
        one.observed.inherit(before.observed)
    elif isinstance(one, Reconciler):
        # Where one limit becomes a limit per place, what Pods carry tells whose they were.
        known = [before.observed] if isinstance(before, Reconciler) else before.observed.parts.values()
        for part in known:
            one.observed.inherit(part)
