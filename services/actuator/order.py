"""What is to be in force on a target: a decision's limit or the fail-safe limit.  Pure.

decision --> order --> plan.py --> patches
"""

from msgspec import Struct
from msgspec.structs import replace

from schemas.domain import Target
from schemas.messages import Cause, Decision, TargetDecision
from schemas.units import Rate
from services.actuator.ownership import Record
from services.kube.objects import Deployment


class Order(Struct, frozen=True):
    """One target's limit, why, and which decision it answers.  Times are UTC ns."""

    cause: Cause
    limit: int
    """kbit/s, within the actuator's own bounds."""
    reason: str
    decision: str | None = None
    epoch: int = 0
    seq: int = 0
    end: int | None = None
    """End of the decision's sample: the fence.  A fail-safe order keeps that of the decision before it."""
    decided: int | None = None
    expires: int | None = None
    """Until when it holds; None: until something better is known."""
    blind: bool = False
    """Decided without data, or in violation: no ground for a raise."""


def clamped(target: Target, limit: int) -> int:
    """The limit within the actuator's own bounds, whatever it was told."""
    return int(min(max(limit, target.min), target.max))


def in_force(deployment: Deployment) -> int | None:
    """The limit on a Deployment, kbit/s; None without a readable one."""
    return rate_of(deployment.bandwidth)


def rate_of(text: str | None) -> int | None:
    """Read a bandwidth annotation, kbit/s; None where there is none, or none that means a limit."""
    rate = Rate.enforced(text)
    return None if rate is None else int(rate)


def from_decision(target: Target, decision: Decision, part: TargetDecision, published: int) -> Order:
    """The order that a decision gives for one of its targets.

    Args:
        target: whose bounds hold.
        decision: what was decided.
        part: the decision's part about this target.
        published: when the decision was published.
    """
    limit = clamped(target, part.limit)
    reason = decision.reason
    if limit != part.limit:
        reason = f"{reason}; {_written(part.limit)} was asked for, outside of {target.min} to {target.max}"
    return Order(
        cause="decision",
        limit=limit,
        reason=reason,
        decision=decision.id,
        epoch=decision.epoch,
        seq=decision.seq,
        end=decision.end,
        decided=published,
        expires=decision.expires,
        blind=decision.forbids_raise(part),
    )


def not_raised(target: Target, order: Order, limit: int | None) -> Order:
    """The order, or a lower one where it would raise what is in force without data that allow it.

    A decision service that has lost its state does not know what is in force.

    Args:
        target: whose bounds hold.
        order: what was decided.
        limit: in force, kbit/s; None: unlimited.
    """
    if not order.blind or limit is None or clamped(target, limit) >= order.limit:
        return order
    kept = clamped(target, limit)
    text = f"{_written(order.limit)} without data that allow a raise: stays at {_written(kept)}"
    return replace(order, limit=kept, reason=f"{order.reason}; {text}")


def lowest(*limits: int | None) -> int | None:
    """The lowest of some limits, kbit/s; None where all are unlimited."""
    return min((limit for limit in limits if limit is not None), default=None)


def _written(kbit: int) -> str:
    return str(Rate(kbit)) if kbit >= 0 else f"{kbit} kbit/s"


def from_record(target: Target, record: Record) -> Order:
    """The order that a Deployment says is in force."""
    return Order(
        cause="decision",
        limit=clamped(target, record.limit),
        reason="in force already",
        decision=record.decision,
        epoch=record.epoch,
        seq=record.seq,
        end=record.end,
        decided=record.decided,
        expires=record.expires,
    )


def fail_safe(target: Target, cause: Cause, reason: str, limit: int | None, last: Order | Record | None) -> Order:
    """The fail-safe limit, or a lower one that is or may be in force: not knowing never raises a limit.

    Args:
        target: whose fail-safe limit and bounds hold.
        cause: ``dead-man`` or ``start``.
        reason: in words.
        limit: in force, kbit/s; None: unlimited.
        last: what was ordered last, which may be in force on some objects only; its fence is kept.
    """
    safe = lowest(target.fail_safe, limit, last.limit if last else None) or 0
    return Order(
        cause=cause,
        limit=clamped(target, safe),
        reason=reason,
        epoch=last.epoch if last else 0,
        seq=last.seq if last else 0,
        end=last.end if last else None,
    )
