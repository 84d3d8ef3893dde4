"""One step of control: ``(domain, policy, state, sample) -> decision``, and nothing else.

The decision carries the state that the next step starts from.  The same arguments give the same
decision, bit for bit: time is what the samples' timestamps say.
"""

from typing import Any

import msgspec

from schemas.domain import Domain
from schemas.messages import Decision, Sample, ShieldMemory, State, TargetDecision
from services.control.observe import Observation, observe
from services.control.policies.proportional import Parameters, Proportional
from services.control.policy import Bounds, Policy, Proposal
from services.control.share import share
from services.control.shield import Limits, Moment, shield

FALLBACK = Proportional(Parameters())
"""Stands in for a policy that raised an error or took too long."""


class StaleSample(ValueError):
    """The sample is not newer than the state: it was stepped on before, or came too late."""


def step(domain: Domain, policy: Policy, state: State | None, sample: Sample, fault: str | None = None) -> Decision:
    """Answer one sample.

    Args:
        domain: the configuration.
        policy: made by ``make_policy(domain)``.
        state: from the decision before; None to begin a new epoch at the fail-safe limits.
        sample: newer than the state.
        fault: why the policy may not be asked this time (it ran out of time); recorded in the
            decision, so that a replay takes the same branch.

    Raises:
        StaleSample: ``sample`` does not end after ``state``.
    """
    if state is not None and sample.end <= state.end:
        raise StaleSample(f"sample {sample.id} is not newer than {state.end}")
    state = _entered(domain, policy, state, sample)
    seen = observe(domain, sample)
    bounds = _bounds(domain, state)
    proposal, fault = _propose(domain, policy, state, seen, bounds, fault)
    decided, memory = _shielded(domain, state, sample, seen, proposal)
    return Decision(
        domain=domain.name,
        sample=sample.id,
        end=sample.end,
        expires=sample.end + domain.dead_man,
        targets=decided,
        reason=proposal.reason,
        state=State(state.epoch, state.seq + 1, sample.end, memory, policy.version, proposal.memory),
        policy=policy.version,
        stress=seen.stress,
        violated=seen.violated,
        fault=fault,
    )


def _entered(domain: Domain, policy: Policy, state: State | None, sample: Sample) -> State:
    """The state as this step finds it: new, carried on, or carried over a gap or a changed configuration."""
    if state is None:
        state = State(sample.end, 0, sample.end, {}, policy.version, policy.first(domain))
    # Past a decision's expiry the actuator has applied the fail-safe limit by itself: go on from there.
    lapsed = sample.end - state.end > domain.dead_man
    memories = {}
    for target in domain.targets:
        known = state.shield.get(target.key) or ShieldMemory(int(target.fail_safe), sample.end)
        limit = min(max(known.limit, target.min), target.max)
        if lapsed:
            limit = min(limit, target.fail_safe)
        memories[target.key] = ShieldMemory(
            int(limit), known.since if limit == known.limit else sample.end, known.cut_until
        )
    return State(state.epoch, state.seq, state.end, memories, policy.version, _memory(domain, policy, state))


def _memory(domain: Domain, policy: Policy, state: State) -> Any:
    if state.policy != policy.version:
        return policy.first(domain)
    if isinstance(state.memory, policy.memory_type):
        return state.memory
    try:
        return msgspec.convert(state.memory, policy.memory_type)
    except msgspec.ValidationError:
        # Written by a build with other ideas of the same version: begin afresh rather than stop.
        return policy.first(domain)


def _bounds(domain: Domain, state: State) -> Bounds:
    return Bounds(
        min=sum(target.min for target in domain.targets),
        max=sum(target.max for target in domain.targets),
        fail_safe=sum(target.fail_safe for target in domain.targets),
        limit=sum(memory.limit for memory in state.shield.values()),
    )


def _propose(
    domain: Domain, policy: Policy, state: State, seen: Observation, bounds: Bounds, fault: str | None
) -> tuple[Proposal, str | None]:
    if seen.missing is not None:
        return Proposal(bounds.limit, f"no data: {seen.missing}", state.memory), fault
    if fault is None:
        try:
            return policy.propose(domain, state.memory, seen, bounds), None
        except Exception as error:  # noqa: BLE001 - a learned policy may fail in any way; the loop must not
            fault = f"{policy.version} raised {type(error).__name__}: {error}"
    stand_in = FALLBACK.propose(domain, FALLBACK.first(domain), seen, bounds)
    return Proposal(stand_in.budget, f"{stand_in.reason} ({FALLBACK.version} stands in)", state.memory), fault


def _shielded(
    domain: Domain, state: State, sample: Sample, seen: Observation, proposal: Proposal
) -> tuple[tuple[TargetDecision, ...], dict[str, ShieldMemory]]:
    moment = Moment(
        end=sample.end,
        start=sample.end - seen.window,
        period=seen.period,
        elapsed=sample.end - state.end,
        violated=seen.violated,
        blind=seen.missing is not None,
    )
    decided = []
    memories = {}
    for target, wanted in zip(domain.targets, share(proposal.budget, domain.targets), strict=True):
        before = state.shield[target.key]
        limit, rule, after = shield(Limits.of(target, domain.shield), before, wanted, moment)
        decided.append(TargetDecision(target.key, limit, wanted, rule, before.limit))
        memories[target.key] = after
    return tuple(decided), memories
