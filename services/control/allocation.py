"""Divides the domain's budget among its targets.

By weight, within each target's bounds, and by need: a target that sends well below its limit would leave
its share idle while another could use it.  Such a target gets what it sends and some room.  As soon as it
fills that, it counts as wanting everything again, and the others give way at once.  The limits add up to
the budget all along.  Where throughput is not measured, a target is taken to want everything.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from schemas.messages import Rule, ShieldMemory
from services.control.observation import Observation
from services.control.shield import Limits, ShieldInput, shield


class Start(Struct, frozen=True, gc=False):
    """Where a step of a domain starts: each target's memory, and what is not in force yet."""

    before: list[ShieldMemory]
    """The limits that rises start from."""
    highest: Sequence[int]
    """The highest limits that may be decided, kbit/s."""
    unreleased: int
    """What targets still have by limits above those decided, kbit/s: nobody else may take it yet."""
    limits: Sequence[Limits]
    """The bounds of this step.  A target whose minimum was raised over its limit rises to it, and does not leap."""


Claim = tuple[int, int, int]
"""Least and most that a target may get, kbit/s, and its weight."""

FULL = 0.9
"""A target that sends this share of its limit fills it, and wants more; one that sends less leaves the rest idle."""
_ROOM = 1.25
_FLOOR = 0.02
"""A target keeps a quarter more than it sends, and this share of its maximum."""


class Allocator:
    """Divides the budget of one domain."""

    def __init__(self, limits: Sequence[tuple[int, str, Limits]], weights: Sequence[int], budget: int) -> None:
        """Prepare what every step needs.

        Args:
            limits: each target's place, key and bounds.
            weights: of the targets.
            budget: the most that all targets together may get, kbit/s.
        """
        self._limits = limits
        self._claims = tuple((one.min, one.max, weights[i]) for i, _, one in limits)
        self._budget = budget

    def update_demand(
        self,
        demand: Mapping[str, int],
        before: Sequence[ShieldMemory],
        recent: Sequence[int | None],
        seen: Observation,
    ) -> dict[str, int]:
        """What each target has a use for, kbit/s; those that want everything are left out.

        Args:
            demand: as it was so far.
            before: the limits in force.
            recent: what was sent under each limit over the last period, kbit/s; None where not measured.
            seen: the sample.
        """
        calm = seen.missing is None and not seen.violated
        updated = {}
        for i, key, limits in self._limits:
            known = before[i]
            settled = calm and seen.end - seen.window >= max(known.since, known.cut_until)
            need = estimate_demand(demand.get(key, 0), recent[i], known.limit, limits.max, settled)
            if need:
                updated[key] = need
        return updated

    def allocate(self, budget: int, start: Start, demand: Mapping[str, int], inputs: ShieldInput) -> list[int]:
        """What each target is to get, kbit/s: proposals for the shield, which has the last word.

        Args:
            budget: kbit/s for all targets together.
            start: the limits in force.
            demand: what targets that leave a part idle have a use for, kbit/s.
            inputs: what the shield will know of the sample.
        """
        # Where nothing may rise, keeping the budget requires keeping each limit: a new division could only lower one.
        if inputs.violated or inputs.no_data:
            limits = [known.limit for known in start.before]
            if budget == sum(limits) and budget <= self._budget:
                return self._defer_raises(start, limits, inputs) if len(limits) > 1 else limits
        if budget > self._budget:
            budget = self._budget
        if len(self._claims) == 1:
            ((least, most, _),) = self._claims
            return [budget if least <= budget <= most else min(max(budget, least), most)]
        shares = divide(budget, self._claims, [demand.get(key, 0) for _, key, _ in self._limits])
        if not (inputs.violated or inputs.no_data):
            shares = self._pass_on(start, shares, demand, inputs)
        return self._defer_raises(start, shares, inputs)

    def _pass_on(self, start: Start, shares: list[int], demand: Mapping[str, int], inputs: ShieldInput) -> list[int]:
        """Give what the shield keeps back of one target's raise to the others.

        Otherwise a target that may only rise slowly draws the others down at once, and with them the
        budget that a policy counts from.  What only the deadband keeps back is not worth a patch: it may
        keep the others from falling, and raises none of them.
        """
        allowed = self._allow(start, shares, inputs)
        held = [limit < proposal for (limit, _), proposal in zip(allowed, shares, strict=True)]
        if not any(held) or all(held):
            return shares
        claims = [
            (least, limit if late else most, weight)
            for (least, most, weight), (limit, _), late in zip(self._claims, allowed, held, strict=True)
        ]
        again = divide(sum(shares), claims, [demand.get(key, 0) for _, key, _ in self._limits])
        if all(rule == "deadband" for (_, rule), late in zip(allowed, held, strict=True) if late):
            highest = [max(known.limit, one) for known, one in zip(start.before, shares, strict=True)]
            again = [min(one, most) for one, most in zip(again, highest, strict=True)]
        return [one if late else other for one, other, late in zip(shares, again, held, strict=True)]

    def _defer_raises(self, start: Start, shares: list[int], inputs: ShieldInput) -> list[int]:
        allowed = [limit for limit, _ in self._allow(start, shares, inputs)]
        return defer_raises([known.limit for known in start.before], shares, allowed, start.unreleased)

    def _allow(self, start: Start, shares: Sequence[int], inputs: ShieldInput) -> list[tuple[int, Rule]]:
        """What the shield would make of the shares, and by which rule."""
        return [
            shield(limits, start.before[i], shares[i], inputs, start.highest[i])[:2]
            for i, limits in enumerate(start.limits)
        ]


def estimate_demand(cap: int, throughput: int | None, limit: int, most: int, settled: bool) -> int:
    """What a target has a use for, kbit/s; 0 is as much as it can get.

    Args:
        cap: the last estimate.
        throughput: its own over the last period, kbit/s; None where not measured.
        limit: in force, kbit/s.
        most: its maximum, kbit/s.
        settled: whether the limit has been in force for a whole window without congestion.
    """
    if throughput is None or throughput > FULL * limit:
        return 0
    if not settled:
        return cap
    needed = int(_ROOM * throughput + _FLOOR * most)
    # Small changes of demand are not worth a patch.
    return cap if cap and cap // 2 < needed <= cap else needed


def divide(budget: int, claims: Sequence[Claim], demand: Sequence[int]) -> list[int]:
    """Divide a budget: first up to what each target has a use for, then what is left among all.

    Args:
        budget: kbit/s for all targets together.
        claims: bounds and weights, in the order of the answer.
        demand: what each has a use for, kbit/s; 0 is as much as it can get.
    """
    if not any(demand):
        return share(budget, claims)
    needs = [
        (least, min(max(need, least), most) if need else most, weight)
        for need, (least, most, weight) in zip(demand, claims, strict=True)
    ]
    given = share(budget, needs)
    return share(budget, [(got, most, weight) for got, (_, most, weight) in zip(given, claims, strict=True)])


def share(budget: int, claims: Sequence[Claim]) -> list[int]:
    """Divide a budget by weight, every target within its own bounds (water-filling).

    A target whose weighted share lies outside its bounds is fixed at that bound, and what is left is
    divided among the others.  The shares add up to the budget, clamped to what the bounds can hold, less
    a rounding of under one kbit/s a target.

    Args:
        budget: kbit/s for all targets together.
        claims: bounds and weights, in the order of the answer.
    """
    left = min(max(budget, sum(least for least, _, _ in claims)), sum(most for _, most, _ in claims))
    free = list(range(len(claims)))
    shares = [0] * len(claims)
    while free:
        weights = sum(claims[i][2] for i in free)
        fair = {i: left * claims[i][2] // weights for i in free}
        clamped = {i: min(max(fair[i], claims[i][0]), claims[i][1]) for i in free}
        excess = sum(clamped.values()) - sum(fair.values())
        # The side that exceeds its bounds by more is settled first: that can only relieve the other side.
        settled = [i for i in free if (clamped[i] > fair[i] if excess > 0 else clamped[i] < fair[i])]
        if not settled:
            settled = [i for i in free if clamped[i] != fair[i]] or free
        for i in settled:
            shares[i] = clamped[i]
        left -= sum(shares[i] for i in settled)
        free = [i for i in free if i not in settled]
    return shares


def defer_raises(
    before: Sequence[int], shares: Sequence[int], allowed: Sequence[int], unreleased: int = 0
) -> list[int]:
    """Delay raises until other targets have released the bandwidth.

    Limits come into force one after the other, in any order: at no time may they add up to more than
    before and after.  So a raise takes what is free already, and the rest with the next step.

    Args:
        before: the limits in force, kbit/s.
        shares: what they are to be.
        allowed: what the shield makes of that.
        unreleased: what earlier cuts have not released yet, kbit/s.
    """
    free = max(sum(allowed) - sum(before) - unreleased, 0)
    raises = sum(max(new - old, 0) for old, new in zip(before, allowed, strict=True))
    if raises <= free:
        return list(shares)
    return [
        old + (new - old) * free // raises if new > old else proposal
        for old, proposal, new in zip(before, shares, allowed, strict=True)
    ]
