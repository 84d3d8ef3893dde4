"""Counters of one or several processes at one address, page after page, and what they really counted.

The truth is obvious and slow: the sum of what each process added, step by step.
"""

from collections.abc import Mapping, Sequence
from random import Random

from msgspec import Struct

BOUNDS = ("0.001", "0.002", "+Inf")
Counts = tuple[float, float, float]
"""A histogram's cumulative buckets."""
Page = Mapping[str, Counts]
"""Histograms by peer; ``""`` is the one without."""


class Lie(Struct, frozen=True):
    """One address."""

    pages: Sequence[Page]
    gains: Sequence[Counts]
    """What was really observed since the page before, by whichever process answered."""
    has_changed_hands: Sequence[bool]
    """Whether another process answered than on the page before: then nobody knows what was observed."""
    churns: bool
    """Whether series appear and disappear: PromQL then rounds by a page at their ends."""


def write_lie(chance: Random, pages: int, *, vanishing: bool = True) -> Lie:
    """Write an address of a random kind.

    Args:
        chance: what decides.
        pages: how many to write.
        vanishing: whether a series may disappear.
    """
    kind = chance.choice(("steady", "restarts", "several", "several", "churn"))
    if kind == "several":
        return _write_several(chance, pages)
    if kind == "churn":
        return _write_churn(chance, pages, vanishing=vanishing)
    counts = _add((0.0, 0.0, 0.0), _gain(chance, 40, chance.choice((0, 500, 10**6))))
    written, gains, restarts = [], [], 0.08 if kind == "restarts" else 0.0
    for _ in range(pages):
        gain = _gain(chance, 40)
        counts = _add((0.0, 0.0, 0.0) if chance.random() < restarts else counts, gain)
        written.append({"": counts})
        gains.append(gain)
    return Lie(written, gains, [False] * pages, churns=False)


def _write_several(chance: Random, pages: int) -> Lie:
    """Two or three processes; which one answers changes seldom, or with every page."""
    size = chance.choice((2, 2, 3))
    heights = [_gain(chance, 10 ** chance.randint(1, 7)) for _ in range(size)]
    pace, turns = chance.choice((3, 30)), chance.choice((0.05, 0.2, 0.9))
    who, written, gains, hands = 0, [], [], []
    for _ in range(pages):
        before = who
        if chance.random() < turns:
            who = chance.randrange(size)
        steps = [_gain(chance, pace) for _ in heights]
        heights = [_add(height, step) for height, step in zip(heights, steps, strict=True)]
        written.append({"": heights[who]})
        gains.append(steps[who])
        hands.append(who != before)
    return Lie(written, gains, hands, churns=False)


def _write_churn(chance: Random, pages: int, *, vanishing: bool) -> Lie:
    """One process whose series come with their first observation, and may go."""
    known: dict[str, Counts] = {"": _gain(chance, 1000)}
    written, gains = [], []
    for number in range(pages):
        if chance.random() < 0.2:
            known[f"peer{number}"] = (0.0, 0.0, 0.0)
        if vanishing and len(known) > 2 and chance.random() < 0.1:
            del known[chance.choice(list(known)[1:])]
        total = (0.0, 0.0, 0.0)
        for peer, height in known.items():
            step = _gain(chance, 20 if peer else 60)
            known[peer] = _add(height, step)
            total = _add(total, step)
        written.append(dict(known))
        gains.append(total)
    return Lie(written, gains, [False] * pages, churns=True)


def _gain(chance: Random, most: int, least: int = 1) -> Counts:
    fast, middle, slow = sorted(chance.randint(min(least, most), max(least, most)) for _ in range(3))
    return float(fast), float(middle), float(slow)


def _add(one: Counts, other: Counts) -> Counts:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def judge(lie: Lie, at: int, window: int, observed: float | None, *, most_before_a_fall: float) -> str:
    """Judge the observations that were reported of the window which ends with a page.

    Args:
        lie: the address.
        at: the page's number.
        window: pages from the window's first to its last.
        observed: the observations; None: no data.
        most_before_a_fall: how many false ones may be believed before a counter fell for the first time.
    """
    if observed is None:
        return "no data"
    steps = range(at - window + 1, at + 1)
    truth = sum(lie.gains[step][-1] for step in steps)
    slack = 0.0
    if lie.churns:
        slack = 0.011 * truth + max(lie.gains[step][-1] for step in steps)
    if any(lie.has_changed_hands[step] for step in steps):
        slack += most_before_a_fall
    restarts_unseen = _restarts_unseen(lie, steps)
    assert abs(observed - truth) <= slack + restarts_unseen + 1e-6, (at, observed, truth, [lie.pages[i] for i in steps])
    return "right"


def _restarts_unseen(lie: Lie, steps: Sequence[int]) -> float:
    """Observations that a restart hid because the counter was higher after it than before."""
    hidden = 0.0
    for step in steps:
        before, after = lie.pages[step - 1].get(""), lie.pages[step].get("")
        if before and after and not lie.has_changed_hands[step]:
            gain = lie.gains[step][-1]
            hidden += before[-1] if after[-1] == gain and after[-1] >= before[-1] > 0 else 0.0
    return hidden
