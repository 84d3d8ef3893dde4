"""Third station of a step: who gets how much of the domain's budget."""

from collections.abc import Sequence
from typing import Protocol


class Claim(Protocol):
    """What a target may get."""

    @property
    def min(self) -> int:
        """Least, kbit/s."""

    @property
    def max(self) -> int:
        """Most, kbit/s."""

    @property
    def weight(self) -> int:
        """Share of what is free."""


def share(budget: int, claims: Sequence[Claim]) -> list[int]:
    """Divide a budget by weight, every target within its own bounds (water-filling).

    A target that its weighted share would put outside its bounds is fixed at that bound, and what is
    left is divided among the others.  The shares add up to the budget, clamped to what the bounds
    can hold, less a rounding of under one kbit/s a target.

    Args:
        budget: kbit/s for all targets together.
        claims: bounds in kbit/s and weights, in the order of the answer.
    """
    free = list(range(len(claims)))
    shares = [0] * len(claims)
    left = min(max(budget, sum(c.min for c in claims)), sum(c.max for c in claims))
    while free:
        weights = sum(claims[i].weight for i in free)
        fair = {i: left * claims[i].weight // weights for i in free}
        clamped = {i: min(max(fair[i], claims[i].min), claims[i].max) for i in free}
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
