"""One step of control: ``(domain, policy, state, sample) -> decision``, and nothing else.

The decision carries the state that the next step starts from.  The same arguments give the same
decision, bit for bit: time is what the samples' timestamps say.  ``Controller`` prepares once what
every step of a domain needs; ``step`` is the same for a single sample.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.domain import Domain
from schemas.messages import (
    Decision,
    Rule,
    Sample,
    ShadowDecision,
    ShieldMemory,
    State,
    TargetDecision,
    sample_id,
)
from services.control.allocation import demanded, divide, eased, filled
from services.control.observation import Observation, Observer
from services.control.policies import make_policy
from services.control.policies.proportional import Memory, Proportional
from services.control.policy import Bounds, Policy, Proposal
from services.control.share import share
from services.control.shield import Limits, Moment, shield

FALLBACK = Proportional()
"""Stands in for a policy that raised an error, answered nonsense or took too long."""


class StaleSample(ValueError):
    """The sample is not newer than the state: it was stepped on before, or came too late."""


def step(domain: Domain, policy: Policy, state: State | None, sample: Sample, fault: str | None = None) -> Decision:
    """Answer one sample; see ``Controller.step``.

    Raises:
        StaleSample: ``sample`` does not end after ``state``.
    """
    return Controller(domain, policy).step(state, sample, fault)


class Controller:
    """One domain's control: the configuration made ready for many steps.  Holds no state of its own."""

    def __init__(self, domain: Domain, policy: Policy | None = None) -> None:
        """Prepare a domain, under its configured policy or the given one.

        Raises:
            ValueError: no such policy, or a parameter that it does not take.
        """
        self.domain = domain
        self.policy = policy or make_policy(domain)
        # It never changes, and every step needs it three times.
        self._version = self.policy.version
        self._shadows = tuple(make_policy(domain, name) for name in domain.shadow)
        self._observer = Observer(domain)
        self._settle = int(domain.shield.settle)
        self._dead_man = int(domain.dead_man)
        # With their places, because to zip lists of one or two costs more than all else that is done with them.
        self._limits = tuple((i, target.key, Limits.of(target, domain)) for i, target in enumerate(domain.targets))
        self._claims = tuple((limits.min, limits.max, domain.targets[i].weight) for i, _, limits in self._limits)
        most = sum(limits.max for _, _, limits in self._limits)
        self._max = most if domain.capacity is None else min(most, int(domain.capacity))
        self._per_pod = any(target.scope == "per-pod" for target in domain.targets)
        self._min = sum(limits.min for _, _, limits in self._limits)
        self._fail_safe = sum(limits.fail_safe for _, _, limits in self._limits)

    def step(self, state: State | None, sample: Sample, fault: str | None = None) -> Decision:
        """Answer one sample.

        Args:
            state: from the decision before; None to begin a new epoch at the fail-safe limits.
            sample: newer than the state.
            fault: why the policy may not be asked this time (it ran out of time); recorded in the
                decision, so that a replay takes the same branch.

        Raises:
            StaleSample: ``sample`` does not end after ``state``.
        """
        end = sample.end
        if state is None:
            state = State(end, 0, end, {}, self._version, self.policy.first())
        elif end <= state.end:
            raise StaleSample(f"sample {sample.id} is not newer than {state.end}")
        seen = self._observer.observe(sample)
        before = self._entered(state, end)
        bounds = self._bounds(before, state.demand, seen)
        own = _memory(self.policy, state.memory, foreign=state.policy != self._version)
        proposal, fault = self._propose(own, before, seen, bounds, fault)
        moment = Moment(
            end, end - seen.window, seen.period + self._settle, end - state.end, seen.violated,
            seen.missing is not None,
        )  # fmt: skip
        demand = self._demand(state.demand, before, seen) if len(self._claims) > 1 else state.demand
        decided, memory = self._decided(before, proposal.budget, demand, moment)
        shadow, shadows = self._shadowed(state, before, seen, bounds, moment, demand) if self._shadows else ((), {})
        return Decision(
            self.domain.name, sample_id(sample.domain, end), end, end + self._dead_man, decided, proposal.reason,
            State(state.epoch, state.seq + 1, end, memory, self._version, proposal.memory, shadows, demand),
            self._version, seen.stress, seen.violated, fault, shadow,
        )  # fmt: skip

    def _entered(self, state: State, end: int) -> list[ShieldMemory]:
        """The shield's memory as this step finds it: carried on, or over a gap or a changed configuration."""
        # Past a decision's expiry the actuator has applied the fail-safe limit by itself: go on from there.
        lapsed = end - state.end > self._dead_man
        entered = []
        for _, key, limits in self._limits:
            known = state.shield.get(key)
            if known is None:
                known = ShieldMemory(limits.fail_safe, end)
            elif lapsed or not limits.min <= known.limit <= limits.max or known.since > end:
                limit = min(max(known.limit, limits.min), limits.fail_safe if lapsed else limits.max)
                known = ShieldMemory(limit, end, known.cut_until)
            entered.append(known)
        return entered

    def _bounds(self, before: list[ShieldMemory], demand: dict[str, int], seen: Observation) -> Bounds:
        limit = waiting = used = wanting = 0
        hungry = False
        rates = self._sent(seen) if self._per_pod else seen.sent
        for i, key, limits in self._limits:
            now, sent = before[i].limit, rates[i]
            limit += now
            waiting += before[i].waiting
            # A target that has no use for its limit says nothing: its minimum may be more than it ever sends.
            if key not in demand:
                used += now if sent is None else sent
                wanting += now
                hungry = hungry or now < limits.max
        pods = self._pods(before, seen) if self._per_pod else 1.0
        full = filled(used, wanting)
        return Bounds(self._min, self._max, self._fail_safe, limit, limit + waiting, full, full and hungry, pods)

    def _sent(self, seen: Observation) -> Sequence[int | None]:
        """What was sent under each limit, where some are each pod's: by one pod on average under those."""
        return [
            sent if sent is None or target.scope == "aggregate" else sent // pods if pods else None
            for target, sent, pods in zip(self.domain.targets, seen.sent, seen.pods, strict=True)
        ]

    def _pods(self, before: list[ShieldMemory], seen: Observation) -> float | None:
        """How many times the sum of the limits in force may be sent; None unless every number of pods is known."""
        most = limits = 0
        for target, known, pods in zip(self.domain.targets, before, seen.pods, strict=True):
            each = target.scope == "per-pod"
            if each and pods is None:
                return None
            most += known.limit * (pods or 1) if each else known.limit
            limits += known.limit
        return most / limits if limits else 1.0

    def _propose(
        self, memory: Any, before: list[ShieldMemory], seen: Observation, bounds: Bounds, fault: str | None
    ) -> tuple[Proposal, str | None]:
        if seen.missing is not None:
            return Proposal(bounds.limit, f"no data: {seen.missing}", memory), fault
        if fault is None:
            proposal, fault = _asked(self.policy, memory, seen, bounds)
            if proposal is not None:
                return proposal, None
        # The shield knows until when the windows still see the last cut.
        quiet = Memory(max(known.cut_until for known in before))
        stand_in = FALLBACK.propose(quiet, seen, bounds)
        return Proposal(stand_in.budget, f"{stand_in.reason} ({FALLBACK.version} stands in)", memory), fault

    def _demand(self, caps: dict[str, int], before: list[ShieldMemory], seen: Observation) -> dict[str, int]:
        """What each target has a use for, kbit/s; those that want everything are left out."""
        calm = seen.missing is None and not seen.violated
        demand = {}
        rates = self._sent(seen) if self._per_pod else seen.sent
        for i, key, limits in self._limits:
            known = before[i]
            settled = calm and seen.end - seen.window >= max(known.since, known.cut_until)
            cap = demanded(caps.get(key, 0), rates[i], known.limit, limits.max, settled)
            if cap:
                demand[key] = cap
        return demand

    def _decided(
        self, before: list[ShieldMemory], budget: int, demand: dict[str, int], moment: Moment
    ) -> tuple[tuple[TargetDecision, ...], dict[str, ShieldMemory]]:
        """What becomes of a budget: divided among the targets, and each share past the shield."""
        wanted = self._divided(budget, before, demand, moment)
        if len(wanted) > 1:
            wanted = self._passed_on(before, wanted, moment, demand)
            allowed = [limit for limit, _ in self._allowed(before, wanted, moment)]
            wanted = eased([known.limit for known in before], wanted, allowed)
        return self._shielded(before, wanted, moment)

    def _divided(self, budget: int, before: list[ShieldMemory], demand: dict[str, int], moment: Moment) -> list[int]:
        # Where nothing may rise, to keep the budget is to keep each limit: divided anew, one would only fall.
        if moment.violated or moment.blind:
            limits = [known.limit for known in before]
            if budget == sum(limits) and budget <= self._max:
                return limits
        if budget > self._max:
            budget = self._max
        if not demand:
            return share(budget, self._claims)
        return divide(budget, self._claims, [demand.get(key, 0) for _, key, _ in self._limits])

    def _passed_on(
        self, before: list[ShieldMemory], wanted: list[int], moment: Moment, demand: dict[str, int]
    ) -> list[int]:
        """What the shield keeps back of one target's rise goes to the others, not to nobody.

        Otherwise a target that may only rise slowly draws the others down at once, and with them the
        budget that a policy counts from.  What only the deadband keeps back is not worth a patch: it may
        keep the others from falling, and raises none of them.
        """
        if moment.violated or moment.blind:
            return wanted
        allowed = self._allowed(before, wanted, moment)
        kept = [limit for limit, _ in allowed]
        held = [limit < proposal for limit, proposal in zip(kept, wanted, strict=True)]
        if not any(held) or all(held):
            return wanted
        claims = [
            (least, limit if late else most, weight)
            for (least, most, weight), limit, late in zip(self._claims, kept, held, strict=True)
        ]
        again = divide(sum(wanted), claims, [demand.get(key, 0) for _, key, _ in self._limits])
        if all(rule == "deadband" for (_, rule), late in zip(allowed, held, strict=True) if late):
            highest = [max(known.limit, one) for known, one in zip(before, wanted, strict=True)]
            again = [min(one, most) for one, most in zip(again, highest, strict=True)]
        return [one if late else other for one, other, late in zip(wanted, again, held, strict=True)]

    def _allowed(self, before: list[ShieldMemory], wanted: list[int], moment: Moment) -> list[tuple[int, Rule]]:
        """What the shield would make of these, and by which rule."""
        return [shield(limits, before[i], wanted[i], moment)[:2] for i, _, limits in self._limits]

    def _shielded(
        self, before: list[ShieldMemory], wanted: list[int], moment: Moment
    ) -> tuple[tuple[TargetDecision, ...], dict[str, ShieldMemory]]:
        decided = []
        memories = {}
        for i, key, limits in self._limits:
            limit, rule, after = shield(limits, before[i], wanted[i], moment)
            decided.append(TargetDecision(key, limit, wanted[i], rule, before[i].limit))
            memories[key] = after
        return tuple(decided), memories

    def _shadowed(
        self,
        state: State,
        before: list[ShieldMemory],
        seen: Observation,
        bounds: Bounds,
        moment: Moment,
        demand: dict[str, int],
    ) -> tuple[tuple[ShadowDecision, ...], dict[str, Any]]:
        """What the other policies would do from the limits in force: one step, not a run of their own."""
        told = []
        memories = {}
        for policy in self._shadows:
            memory = _memory(policy, state.shadows.get(policy.version), foreign=False)
            proposal, fault = None, f"no data: {seen.missing}"
            if seen.missing is None:
                proposal, fault = _asked(policy, memory, seen, bounds)
            proposal = proposal or Proposal(bounds.limit, fault, memory)
            decided, _ = self._decided(before, proposal.budget, demand, moment)
            limit = sum(one.limit for one in decided)
            told.append(ShadowDecision(policy.version, proposal.budget, limit, proposal.reason))
            memories[policy.version] = proposal.memory
        return tuple(told), memories


def overruled(decision: Decision) -> tuple[TargetDecision, ...]:
    """The targets whose limit is not what the policy proposed: what the shield changed."""
    return tuple(one for one in decision.targets if one.limit != one.proposal)


def _asked(policy: Policy, memory: Any, seen: Observation, bounds: Bounds) -> tuple[Proposal | None, str]:
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


def _memory(policy: Policy, memory: Any, *, foreign: bool) -> Any:
    """The policy's memory as a step finds it; ``foreign``: another policy left it, or another version."""
    if foreign or memory is None:
        return policy.first()
    if type(memory) is policy.memory_type:
        return memory
    try:
        return msgspec.convert(memory, policy.memory_type)
    except msgspec.ValidationError:
        # Written by a build with other ideas of the same version: begin afresh rather than stop.
        return policy.first()
