"""Checks the division of a budget for every small set of targets."""

import itertools

from services.control.allocation import share
from tests.proof.enumeration import Broken

_CLAIMS = tuple(
    (least, most, weight) for least in (1, 2) for most in range(least, 6) for weight in (1, 2, 5)
)  # fmt: skip


def check_share(targets: int) -> int:
    """Check every budget over so many targets; return how many divisions there were.

    Raises:
        Broken: a share lies outside its bounds, the shares do not add up, or they are unfair.
    """
    count = 0
    for claims in itertools.combinations_with_replacement(_CLAIMS, targets):
        least, most = sum(one[0] for one in claims), sum(one[1] for one in claims)
        for budget in range(-1, most + 3):
            count += 1
            shares = share(budget, claims)
            within = all(low <= one <= high for one, (low, high, _) in zip(shares, claims, strict=True))
            whole = min(max(budget, least), most)
            if not within or not whole - targets < sum(shares) <= whole or not _is_fair(shares, claims):
                raise Broken(f"budget {budget} over {claims} gave {shares}")
    return count


def _is_fair(shares: list[int], claims: tuple[tuple[int, int, int], ...]) -> bool:
    """No target below its maximum gets less by weight than one above its minimum, except for rounding."""
    for one, (_, high, weight) in zip(shares, claims, strict=True):
        for other, (low, _, others_weight) in zip(shares, claims, strict=True):
            if one < high and other > low and (one + 1) * others_weight < (other - 1) * weight:
                return False
    return True
