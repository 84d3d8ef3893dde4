"""Hands decisions to reconcilers that run in a test's own process."""

from collections.abc import Mapping

from schemas.messages import Decision, State, TargetDecision
from services.actuator.outbox import PendingAck
from services.actuator.reconciler import Reconciler


def offer_limits(
    domain: str,
    reconcilers: Mapping[str, Reconciler],
    limits: Mapping[str, int],
    end: int,
    expires: int,
    published: int,
) -> None:
    """Offer each target its limit, kbit/s, as one decision.

    Args:
        domain: decided for.
        reconcilers: by target.
        limits: by target.
        end: of the sample, UTC ns.
        expires: UTC ns.
        published: when the bus stored the decision, UTC ns.
    """
    parts = tuple(
        TargetDecision(target=key, limit=limit, proposal=limit, rule="none", was=0) for key, limit in limits.items()
    )
    decision = Decision(
        domain=domain,
        sample=f"{domain}:{end}",
        end=end,
        expires=expires,
        targets=parts,
        reason="set by the test",
        state=State(1, end, end, {}, "test/1"),
        policy="test/1",
        stress=0.5,
    )

    async def acknowledge() -> None:
        pass

    for part in parts:
        reconcilers[part.target].offer(decision, part, published, PendingAck(acknowledge, {}, 1))
