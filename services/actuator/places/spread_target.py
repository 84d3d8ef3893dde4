"""A target that is limited place by place, and its workload's annotation, which carries the sum of all parts.

Pods carry what is enforced; each part's reconciler writes those of its place.  What the workload carries enforces
nothing: it tells people and other programs what the target may send in all.  So it follows at its own pace, and is
worked out from what the Pods carry, whoever limits them: the actuator that has the template's Lease writes it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from schemas.domain import Domain, Target
from schemas.units import MAX_KBIT
from services.actuator.apply import apply_plan
from services.actuator.dependencies import Dependencies
from services.actuator.desired_limit import LimitOrder
from services.actuator.ownership import PART, Extent, find_record, pause_reason
from services.actuator.places.parts import ObservedParts
from services.actuator.places.placement import Placement
from services.actuator.plan import WriterTerm, build_plan
from services.actuator.refusals import Refusals
from services.actuator.reporter import Reporter, recover_actions
from services.kube.objects import Pod

EVERY_S = 1.0
"""Between two sums; one of many Pods takes longer, so that it is never more than a fiftieth of the time."""
_SHARE = 50


def sum_parts(target: Target, parts: Mapping[str, Iterable[Pod]]) -> tuple[int, int]:
    """What a target may send in all places, kbit/s, and in how many of them, as its Pods' records say."""
    total = places = 0
    for place, pods in parts.items():
        extent = Extent(f"{target.key}{PART}{place}", is_part=True)
        live = [pod for pod in pods if not pod.has_ended]
        records = [record for pod in live if (record := extent.find_record(pod)) is not None]
        if not records:
            continue
        newest = max(records, key=lambda one: (one.end or 0, one.at))
        total += newest.limit * (1 if target.scope == "aggregate" else len(live))
        places += 1
    return min(total, MAX_KBIT), places


class SpreadTarget:
    """What all parts of one target have in common."""

    def __init__(
        self,
        domain: Domain,
        target: Target,
        shared: Dependencies,
        placement: Placement,
        is_summing: Callable[[], bool],
    ) -> None:
        """Prepare; ``run`` keeps the sum.

        Args:
            domain: the template.
            target: of it.
            shared: by all reconcilers.
            placement: knows the places, and learns of the nodes.
            is_summing: whether this process writes the sum.
        """
        self.domain, self.target = domain, target
        self._shared = shared
        self._is_summing = is_summing
        self._awake = asyncio.Event()
        self._is_stopping = False
        self.observed = ObservedParts(
            lambda node: placement.find_place(self.domain.name, node),
            lambda nodes: placement.note(self.domain.name, self.target.key, nodes),
            self._awake.set,
            target.pod_namespaces,
        )
        self._reporter = Reporter(domain, target, shared.outbox, shared.events, shared.set_note, shared.clock)
        self._refusals = Refusals()
        self._uid = ""
        self._was_paused = False
        self._reported = set[str]()

    def define(self, domain: Domain, target: Target) -> None:
        """Go on under another definition."""
        if domain.per != self.domain.per:
            self.domain = domain
            self.observed.place_again()
        self.domain, self.target = domain, target
        self._reporter.define(target)
        self._awake.set()

    def wake(self) -> None:
        """Look again: who is in charge has changed."""
        self._awake.set()

    def stop(self) -> None:
        """Write nothing more."""
        self._is_stopping = True
        self._awake.set()

    def retire(self) -> None:
        """Show nothing of the target any more."""
        self._reporter.retire()

    async def run(self) -> None:
        """Keep the sum on the workload, until it is stopped."""
        shared = self._shared
        while not self._is_stopping:
            self._awake.clear()
            began = time.perf_counter()
            try:
                retry_s = await self._write_sum()
                shared.set_condition(f"{self.target.key} round", None)
            except Exception as error:  # noqa: BLE001 - any of them would end the process, and the fail-safe of all
                retry_s = await shared.recover(self.target.key, error)
            await asyncio.sleep(max(EVERY_S, _SHARE * (time.perf_counter() - began)))
            with suppress(TimeoutError):
                async with asyncio.timeout(retry_s):
                    await self._awake.wait()

    async def _write_sum(self) -> float | None:
        """Write the sum where it is another; returns after how many seconds to try again, or None."""
        whole, shared = self.observed.whole, self._shared
        workload = whole.workload
        if workload is None or shared.dry_run or self._is_stopping:
            return None
        why = shared.pause(self.domain.name) or pause_reason(workload, managed=workload.uid == self._uid)
        if (why is not None) != self._was_paused:
            self._was_paused = why is not None
            self._reporter.report_pause(workload, why)
        if why is not None or not self._is_summing():
            return None
        record = find_record(workload)
        if record is not None:
            self._uid = workload.uid
            lost = {one.action for one in record.writes} - self._reported
            for action in recover_actions(self.domain, self.target, [workload], {workload.uid: lost}) if lost else ():
                self._reporter.report_recovered(action)
            self._reported |= lost
        # By how the limits' names have the places.
        parts = self.observed.parts.items()
        pods = {self.domain.build_instance(place, ()).place_key: part.pods for place, part in parts}
        total, places = sum_parts(self.target, pods)
        if not places:
            return None  # what it carried last stays, as on any workload without Pods
        order = LimitOrder(cause="rescale", limit=total, reason=f"the sum of what it may send in {places} places")
        writer = WriterTerm(Extent(self.target.key), shared.process, 1, refused=self._refusals.refused)
        plan = build_plan(self.target, order, workload, (), writer, shared.outbox.owed, shared.clock())
        plan, wait_s = self._refusals.select(plan, shared.steady())
        if not plan.writes:
            return wait_s or None
        result = await apply_plan(shared.client, whole, plan, lambda _: not self._is_stopping, tolerate_stale=True)
        self._reported = {write.action for one, _ in result.outcomes for write in one.record.writes}
        is_news = self._refusals.count(
            [one for one, _ in result.outcomes], result.failures, shared.steady(), result.unsent
        )
        self._reporter.report_writes(
            order, plan, result.outcomes, workload, {}, applied=shared.clock(), is_news=is_news
        )
        return EVERY_S if result.failures else None
