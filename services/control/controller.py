"""One step of control: ``(domain, policy, state, sample) -> decision``, and nothing else.

The decision carries the state that the next step starts from, and what was newly reported to be in force.
The same arguments give the same decision, bit for bit: time is what the samples' timestamps say.
``Controller`` prepares once what every step of a domain needs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.inherited import Inherited
from schemas.messages import (
    Decision,
    InForce,
    Sample,
    ShadowDecision,
    ShieldMemory,
    State,
    TargetDecision,
)
from services.control.admission import StaleSample, admit
from services.control.allocation import FULL, Allocator, Start
from services.control.observation import Observation, Observer, follow_overruns
from services.control.policies import make_policy
from services.control.policies.proportional import Proportional
from services.control.policy import Bounds, CutMemory, InheritingPolicy, Policy, Proposal
from services.control.shield import Limits, ShieldInput, shield, start_from

Reported = Mapping[str, InForce | None]
"""What is in force by target, as it was reported; None: it is no longer known."""
NOTHING_REPORTED: Reported = {}

FALLBACK = Proportional()
"""Replaces a policy that raised an error, gave an unusable answer or took too long."""


class Controller:
    """One domain's control, ready for many steps.  It holds no state of its own."""

    def __init__(self, domain: Domain, policy: Policy | None = None, revision: int = 0) -> None:
        """Prepare a domain, under its configured policy or the given one; decisions name the definition's revision.

        Raises:
            ValueError: no such policy, or a parameter that it does not take.
        """
        self.domain = domain
        self.revision = revision
        self.policy = policy or make_policy(domain)
        # It never changes, and every step needs it three times.
        self._version = self.policy.version
        self._shadows = tuple(make_policy(domain, name) for name in domain.shadow)
        self._observer = Observer(domain)
        self._settle = int(domain.shield.settle)
        self._dead_man = int(domain.dead_man)
        # With their indices: zipping lists of one or two costs more than all else that is done with them.
        self._limits = tuple(
            (i, target.key, Limits.from_target(target, domain)) for i, target in enumerate(domain.targets)
        )
        most = sum(limits.max for _, _, limits in self._limits)
        self._max = most if domain.capacity is None else min(most, int(domain.capacity))
        self._allocator = Allocator(self._limits, [target.weight for target in domain.targets], self._max)
        self._keys = frozenset(key for _, key, _ in self._limits)
        self._each = tuple(limits for _, _, limits in self._limits)
        self._highest = tuple(limits.max for limits in self._each)
        self._several = len(self._limits) > 1
        self._per_pod = any(target.scope == "per-pod" for target in domain.targets)
        self._min = sum(limits.min for _, _, limits in self._limits)
        self._fail_safe = sum(limits.fail_safe for _, _, limits in self._limits)

    def answer(
        self,
        state: State | None,
        sample: Sample,
        published: int,
        fault: str | None = None,
        reported: Reported = NOTHING_REPORTED,
        inherited: Inherited | None = None,
    ) -> Decision:
        """Admit a sample as the bus delivered it, and step.

        Args:
            state: from the decision before; None when there is none.
            sample: to be answered.
            published: when the bus stored the sample, by the server's clock, UTC ns.
            fault: see ``step``.
            reported: see ``step``.
            inherited: see ``step``; only without a state.

        Raises:
            RejectedSample: the sample may not be stepped on; see ``admit``.
        """
        admitted = admit(self.domain, state, sample, published)
        if admitted is None and state is not None:
            reported = {**state.in_force, **reported}  # a new epoch does not change what is in force
        return self.step(admitted, sample, fault, reported, inherited if state is None else None)

    def step(
        self,
        state: State | None,
        sample: Sample,
        fault: str | None = None,
        reported: Reported = NOTHING_REPORTED,
        inherited: Inherited | None = None,
    ) -> Decision:
        """Answer one sample.

        Args:
            state: from the decision before; None to begin a new epoch at the fail-safe limits.
            sample: newer than the state.
            fault: why the policy may not be asked this time (it ran out of time); recorded in the
                decision, so that a replay takes the same branch.
            reported: what the actuator reported to be in force since the decision before, by target; None: it is no
                longer known.  Recorded in the decision, too.
            inherited: what a new instance begins with, without a state.  Recorded in the decision, too.

        Raises:
            StaleSample: ``sample`` does not end after ``state``.
        """
        end = sample.end
        if state is None:
            state = State(end, 0, end, {}, self._version, _inherit(self.policy, inherited, end))
        elif end <= state.end:
            raise StaleSample(f"sample {sample.id} is not newer than {state.end}")
        elif state.shield.keys() != self._keys:
            state = self._carry_over(state)
        seen = self._observer.observe(sample)
        in_force = state.in_force
        if reported:
            merged = {**in_force, **reported}
            in_force = {key: one for _, key, _ in self._limits if (one := merged.get(key)) is not None}
        start, bounds = self._find_bounds(state, seen, in_force)
        before = start.before
        inputs = ShieldInput(
            end, end - seen.window, seen.period + self._settle, end - state.end, seen.violated,
            seen.missing is not None, seen.queued,
        )  # fmt: skip
        memory = state.memory if state.policy == self._version else None
        if type(memory) is not self.policy.memory_type:
            memory = _restore_memory(self.policy, memory)
        proposal, fault = self._propose(memory, before, seen, bounds, fault)
        demand = state.demand
        if self._several:
            recent = self._recent_per_limit(seen) if self._per_pod else seen.recent_by_target
            demand = self._allocator.update_demand(demand, before, recent, seen)
        over, overruns = follow_overruns(self.domain, state, in_force, sample, seen)
        targets, shield_memory = self._apply_budget(start, proposal.budget, demand, inputs)
        shadow, shadows = self._run_shadows(state, start, seen, bounds, inputs, demand) if self._shadows else ((), {})
        return Decision(
            self.domain.name, sample.id, end, end + self._dead_man, targets, proposal.reason,
            State(
                state.epoch, state.seq + 1, end, shield_memory, self._version, proposal.memory, shadows, demand, over,
                in_force,
            ),
            self._version, seen.stress, seen.violated, fault, shadow, proposal.link, overruns, dict(reported),
            self.revision, inherited,
        )  # fmt: skip

    def _carry_over(self, state: State) -> State:
        """Keep of a state what is about targets that the domain still has: others were there when it was written."""
        shield, demand, over, in_force = (
            {key: one for key, one in of.items() if key in self._keys}
            for of in (state.shield, state.demand, state.over, state.in_force)
        )
        # The demand of an only target is not followed.
        return replace(state, shield=shield, demand=demand if self._several else {}, over=over, in_force=in_force)

    def _find_bounds(self, state: State, seen: Observation, in_force: Mapping[str, InForce]) -> tuple[Start, Bounds]:
        """The limits in force as this step finds them, and the domain's budget as policies see it.

        Limits are carried on, or over a gap or a changed definition, unless others were reported to be in force.  One
        above a maximum that was lowered is cut at once; one below a minimum that was raised rises to it.
        """
        end = seen.end
        # Past a decision's expiry the actuator has applied the fail-safe limit by itself: go on from there.
        lapsed = end - state.end > self._dead_man
        before, highest, unreleased, each = [], self._highest, 0, self._each
        limit = waiting = used = wanting = 0
        hungry = False
        recent = self._recent_per_limit(seen) if self._per_pod else seen.recent_by_target
        for i, key, limits in self._limits:
            known = state.shield.get(key)
            if known is None:
                known = ShieldMemory(limits.fail_safe, end)
            elif lapsed or known.limit > limits.max or known.since > end:
                now = min(max(known.limit, limits.min), limits.fail_safe if lapsed else limits.max)
                known = ShieldMemory(now, end, known.cut_until)
            actual = in_force.get(key) if in_force else None
            if known.limit < 1:
                # No decision of this service says so.
                known = ShieldMemory(limits.min, end)
            if known.limit < limits.min:
                least = known.limit if actual is None else min(known.limit, max(actual.limit, 1))
                limits = replace(limits, min=least)  # noqa: PLW2901 - of this step
                each = (*each[:i], limits, *each[i + 1 :])
            if actual is not None and (actual.limit != known.limit or actual.unsettled):
                if end - known.since <= self._dead_man:
                    # A cut that nobody makes must not keep the others down for ever.
                    unreleased += max(limits.max if actual.unsettled else actual.limit - known.limit, 0)
                known, most = start_from(limits, known, actual.limit, actual.unsettled)
                highest = (*highest[:i], most, *highest[i + 1 :])
            before.append(known)
            now, throughput = known.limit, recent[i]
            limit += now
            waiting += known.waiting
            # A target that has no use for its limit does not count: its minimum may be more than it ever sends.
            if key not in state.demand:
                used += now if throughput is None else throughput
                wanting += now
                hungry = hungry or now < limits.max
        pods = self._pods_per_limit(before, seen) if self._per_pod else 1.0
        full = used > FULL * wanting
        return Start(before, highest, unreleased, each), Bounds(
            self._min, self._max, self._fail_safe, limit, limit + waiting, full, full and hungry, pods
        )  # fmt: skip

    def _recent_per_limit(self, seen: Observation) -> Sequence[int | None]:
        """What was sent under each limit: under a limit per pod, by one pod on average."""
        return [
            recent if recent is None or target.scope == "aggregate" else recent // pods if pods else None
            for target, recent, pods in zip(self.domain.targets, seen.recent_by_target, seen.pods, strict=True)
        ]

    def _pods_per_limit(self, before: list[ShieldMemory], seen: Observation) -> float | None:
        """How many times the sum of the limits in force may be sent; None unless every number of pods is known."""
        most = limits = 0
        for target, known, pods in zip(self.domain.targets, before, seen.pods, strict=True):
            per_pod = target.scope == "per-pod"
            if per_pod and pods is None:
                return None
            most += known.limit * (pods or 1) if per_pod else known.limit
            limits += known.limit
        return most / limits if limits else 1.0

    def _propose(
        self, memory: Any, before: list[ShieldMemory], seen: Observation, bounds: Bounds, fault: str | None
    ) -> tuple[Proposal, str | None]:
        """A proposal, from the policy or in its place, and why it is not the policy's."""
        if seen.missing is not None:
            return Proposal(bounds.limit, f"no data: {seen.missing}", memory), fault
        if fault is None:
            proposal, fault = _ask(self.policy, memory, seen, bounds)
            if proposal is not None:
                return proposal, None
        # The shield knows until when the windows still see the last cut.
        quiet = CutMemory(max(known.cut_until for known in before))
        stand_in = FALLBACK.propose(quiet, seen, bounds)
        return Proposal(stand_in.budget, f"{stand_in.reason} ({FALLBACK.version} stands in)", memory), fault

    def _apply_budget(
        self, start: Start, budget: int, demand: dict[str, int], inputs: ShieldInput
    ) -> tuple[tuple[TargetDecision, ...], dict[str, ShieldMemory]]:
        """Divide a budget among the targets, and pass each share through the shield."""
        before = start.before
        shares = self._allocator.allocate(budget, start, demand, inputs)
        decided = []
        memories = {}
        for i, key, _ in self._limits:
            limit, rule, after = shield(start.limits[i], before[i], shares[i], inputs, start.highest[i])
            decided.append(TargetDecision(key, limit, shares[i], rule, before[i].limit))
            memories[key] = after
        return tuple(decided), memories

    def _run_shadows(
        self,
        state: State,
        start: Start,
        seen: Observation,
        bounds: Bounds,
        inputs: ShieldInput,
        demand: dict[str, int],
    ) -> tuple[tuple[ShadowDecision, ...], dict[str, Any]]:
        """What the other policies would do from the limits in force: one step, not a run of their own."""
        decisions = []
        memories = {}
        for policy in self._shadows:
            memory = _restore_memory(policy, state.shadows.get(policy.version))
            proposal, fault = None, f"no data: {seen.missing}"
            if seen.missing is None:
                proposal, fault = _ask(policy, memory, seen, bounds)
            proposal = proposal or Proposal(bounds.limit, fault, memory)
            targets, _ = self._apply_budget(start, proposal.budget, demand, inputs)
            limit = sum(one.limit for one in targets)
            decisions.append(ShadowDecision(policy.version, proposal.budget, limit, proposal.reason))
            memories[policy.version] = proposal.memory
        return tuple(decisions), memories


def _ask(policy: Policy, memory: Any, seen: Observation, bounds: Bounds) -> tuple[Proposal | None, str]:
    """The policy's proposal, or why it cannot be used."""
    try:
        proposal = policy.propose(memory, seen, bounds)
    except Exception as error:  # noqa: BLE001 - a learned policy may fail in any way; the loop must not
        return None, f"{policy.version} raised {type(error).__name__}: {error}"
    if type(proposal) is not Proposal:
        return None, f"{policy.version} answered with {type(proposal).__name__}"
    if type(proposal.budget) is not int:
        return None, f"{policy.version} proposed {proposal.budget!r}, no whole number of kbit/s"
    if type(proposal.reason) is not str or type(proposal.memory) is not policy.memory_type:
        return None, f"{policy.version} gave no text as its reason, or a memory that is not its own"
    return proposal, ""


def _inherit(policy: Policy, inherited: Inherited | None, end: int) -> Any:
    """The memory that a new instance begins with."""
    if inherited is not None and inherited.policy == policy.version and isinstance(policy, InheritingPolicy):
        memory = _restore_memory(policy, inherited.memory)
        try:
            return policy.inherit(memory, inherited.ratio, end)
        except Exception:  # noqa: BLE001 - a learned policy may fail in any way; then it begins afresh
            return policy.memory_type()
    return policy.memory_type()


def _restore_memory(policy: Policy, memory: Any) -> Any:
    """The policy's memory as a step finds it; None begins afresh."""
    if type(memory) is policy.memory_type:
        return memory
    try:
        return policy.memory_type() if memory is None else msgspec.convert(memory, policy.memory_type)
    except msgspec.ValidationError:
        # A build that meant other fields by the same version wrote it: begin afresh rather than stop.
        return policy.memory_type()
