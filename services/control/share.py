"""Third station of a step: who gets how much of the domain's budget."""

from collections.abc import Sequence

Claim = tuple[int, int, int]
"""Least and most that a target may get, kbit/s, and its weight."""


def share(budget: int, claims: Sequence[Claim]) -> list[int]:
    """Divide a budget by weight, every target within its own bounds (water-filling).

    A target that its weighted share would put outside its bounds is fixed at that bound, and what is
    left is divided among the others.  The shares add up to the budget, clamped to what the bounds
    can hold, less a rounding of under one kbit/s a target.

    Args:
        budget: kbit/s for all targets together.
        claims: bounds and weights, in the order of the answer.
    """
    if len(claims) == 1:
        least, most, _ = claims[0]
        return [budget if least <= budget <= most else min(max(budget, least), most)]
    left = min(max(budget, sum(least for least, _, _ in claims)), sum(most for _, most, _ in claims))
    free = list(range(len(claims)))
    shares = [0] * len(claims)
    while free:
        weights = sum(claims[i][2] for i in free)
        fair = {i: left * claims[i][2] // weights for i in free}
        clamped = {i: min(max(fair[i], claims[i][0]), claims[i][1]) for i in free}
        excess = sum(clamped.values()) - sum(fair.values())
        # The side that breaks more is settled first: fixing it can only relieve the other side.
        settled = [i for i in free if (clamped[i] > fair[i] if excess > 0 else clamped[i] < fair[i])]
        if not settled:
            settled = [i for i in free if clamped[i] != fair[i]] or free
        for i in settled:
            shares[i] = clamped[i]
        left -= sum(shares[i] for i in settled)
        free = [i for i in free if i not in settled]
    return shares
