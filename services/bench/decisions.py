"""Decisions that a bench makes up in the decision service's place."""

from schemas.domain import Domain
from schemas.messages import Decision, State, TargetDecision
from services.bus.bus import Bus

_POLICY = "bench/1"


def build_decision(domain: Domain, epoch: int, seq: int, end: int, limit: int) -> Decision:
    """Decide the same limit, kbit/s, for all targets, for a sample that ends at ``end``, UTC ns."""
    return Decision(
        domain=domain.name,
        sample=f"{domain.name}:{end}",
        end=end,
        expires=end + domain.dead_man,
        targets=tuple(
            TargetDecision(target=one.key, limit=limit, proposal=limit, rule="none", was=0) for one in domain.targets
        ),
        reason="bench",
        state=State(epoch=epoch, seq=seq, end=end, shield={}, policy=_POLICY),
        policy=_POLICY,
        stress=0.5,
    )


async def publish(bus: Bus, decision: Decision) -> None:
    """Publish a decision as the decision service does."""
    await bus.publish(bus.subjects.decision(decision.domain), decision, msg_id=decision.id)
