"""The claims about the shield, each written once.

z3 proves the same text over all integers (``solver.py``), and an enumeration checks it on the shipped function
(``enumeration.py``).  ``Logic`` hides whether the values are symbols or numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

SECOND = 10**9


class Logic(Protocol):
    """Boolean operations and choice over symbols or numbers."""

    def all(self, *parts: Any) -> Any:
        """Every part holds."""

    def any(self, *parts: Any) -> Any:
        """Some part holds."""

    def no(self, part: Any) -> Any:
        """It does not hold."""

    def min(self, one: Any, two: Any) -> Any:
        """The smaller."""

    def max(self, one: Any, two: Any) -> Any:
        """The larger."""

    def rule(self, name: str) -> Any:
        """A rule's name as a value."""

    def implies(self, one: Any, two: Any) -> Any:
        """If the first holds, then the second."""
        return self.any(self.no(one), two)


@dataclass
class Case:
    """One situation of the shield, and the functions under proof."""

    logic: Logic
    shield: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]
    start_from: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    limits: Any
    decided: Any
    """The memory of the last decision."""
    in_force: Any
    unsettled: Any
    """What was reported to be in force, and whether on a part only."""
    inputs: Any
    proposal: Any
    other: Any
    """A second proposal, for claims that compare two."""
    variant: Callable[[Any, bool, bool], Any]
    """Inputs with other values of ``violated`` and ``no_data``."""

    def __post_init__(self) -> None:
        """Take one step from what is in force."""
        self.memory, self.highest = self.start_from(self.limits, self.decided, self.in_force, self.unsettled)
        self.out, self.rule, self.after = self.step(self.proposal, self.inputs)

    def step(self, proposal: Any, inputs: Any) -> tuple[Any, Any, Any]:
        """The shield's answer to another proposal or sample, from the same start."""
        return self.shield(self.limits, self.memory, proposal, inputs, self.highest)

    @property
    def settling(self) -> Any:
        """Whether the window still sees the last cut, and nothing that was given back has built up a queue."""
        m, i = self.memory, self.inputs
        overdone = self.logic.all(m.back > 0, i.queued, m.since >= m.cut_until)
        return self.logic.all(i.start < m.cut_until, self.logic.no(overdone))

    @property
    def returning(self) -> Any:
        """Whether a cut that no queue explains may be taken back."""
        m, i = self.memory, self.inputs
        quiet = self.logic.no(self.logic.any(i.queued, i.no_data))
        return self.logic.all(self.settling, quiet, m.back > m.limit, i.end >= m.cut_until)

    @property
    def actual(self) -> Any:
        """What is in force, within the bounds."""
        return self.logic.min(self.logic.max(self.in_force, self.limits.min), self.limits.max)

    @property
    def pending(self) -> Any:
        """Whether what was decided last is not in force."""
        return self.logic.any(self.actual != self.decided.limit, self.unsettled)


def assume(c: Case) -> Any:
    """What ``Limits.from_target`` and ``Controller`` guarantee before they call the shield."""
    p = c.limits
    return c.logic.all(
        p.min >= 1, p.min <= p.fail_safe, p.fail_safe <= p.max,
        p.deadband >= 1, p.deadband <= p.rise, p.cut >= 50, p.cut <= 950, p.decay >= 1,
        p.min <= c.decided.limit, c.decided.limit <= p.max, c.decided.since <= c.inputs.end,
        c.inputs.elapsed >= 0, c.inputs.settle >= 1, c.inputs.start < c.inputs.end,
        c.decided.back >= 0,
    )  # fmt: skip


def in_range(c: Case) -> Any:
    """The limit stays within [min, max], whatever is proposed."""
    return c.logic.all(c.limits.min <= c.out, c.out <= c.limits.max)


def never_above_the_proposal(c: Case) -> Any:
    """With data, the limit is at most the proposal (or min), so the limits add up to at most the divided budget."""
    return c.logic.implies(c.logic.no(c.inputs.no_data), c.out <= c.logic.max(c.proposal, c.limits.min))


def rise_is_bounded(c: Case) -> Any:
    """Over any interval of length t the limit rises by at most rise x (t + 1 s).

    The proof uses a budget that grows with time and pays for rises: limit x 1 s + rise x min(time since the last
    change, 1 s) grows by no more than rise x time, and stays within rise x 1 s above limit x 1 s.
    """
    paid = (c.out - c.memory.limit) * SECOND
    full = c.logic.min(c.inputs.end - c.memory.since, SECOND)
    changed = c.out != c.memory.limit
    before = c.inputs.end - c.inputs.elapsed
    store = c.memory.limit * SECOND + c.limits.rise * c.logic.min(before - c.memory.since, SECOND)
    stored = c.out * SECOND + c.limits.rise * c.logic.min(c.inputs.end - c.after.since, SECOND)
    return c.logic.all(
        c.logic.implies(c.memory.since <= before, stored - store <= c.limits.rise * c.inputs.elapsed),
        c.logic.implies(c.out > c.memory.limit, paid <= c.limits.rise * full),
        c.logic.implies(changed, c.after.since == c.inputs.end),
        c.logic.implies(c.logic.no(changed), c.after.since == c.memory.since),
    )


def no_data_never_rises(c: Case) -> Any:
    """Without data the limit never goes up."""
    return c.logic.implies(c.inputs.no_data, c.out <= c.memory.limit)


def no_data_falls(c: Case) -> Any:
    """Without data it is at the fail-safe limit, or fell at least as fast as from max to it within ``decay``."""
    fallen = (c.memory.limit - c.out) * c.limits.decay
    due = (c.limits.max - c.limits.fail_safe) * c.inputs.elapsed
    return c.logic.implies(c.inputs.no_data, c.logic.any(c.out <= c.limits.fail_safe, fallen >= due))


def no_data_stops_at_fail_safe(c: Case) -> Any:
    """Without data and without loss, the fall ends at the fail-safe limit, and a lower limit stays."""
    quiet = c.logic.all(c.inputs.no_data, c.logic.no(c.inputs.violated), c.proposal >= c.memory.limit)
    return c.logic.implies(quiet, c.out >= c.logic.min(c.memory.limit, c.limits.fail_safe))


def no_data_falls_no_faster(c: Case) -> Any:
    """Without data and without loss, the fall is no faster than that, rounded up to whole kbit/s."""
    quiet = c.logic.all(c.inputs.no_data, c.logic.no(c.inputs.violated), c.proposal >= c.memory.limit)
    due = (c.limits.max - c.limits.fail_safe) * c.inputs.elapsed
    fallen = c.memory.limit - c.out
    return c.logic.implies(quiet, c.logic.any(fallen == 0, (fallen - 1) * c.limits.decay < due))


def violation_cuts(c: Case) -> Any:
    """A violation seen after the last cut took effect leaves at most ``cut`` of the limit, and starts a new window."""
    fresh = c.logic.all(c.inputs.violated, c.logic.no(c.settling))
    low = c.logic.any(c.out * 1000 <= c.memory.limit * c.limits.cut, c.out == c.limits.min)
    return c.logic.implies(fresh, c.logic.all(low, c.after.cut_until == c.inputs.end + c.inputs.settle))


def violation_cuts_no_deeper(c: Case) -> Any:
    """The shield's own cut leaves ``cut`` of the limit, less rounding; a lower value is the policy's proposal."""
    cut = c.rule == c.logic.rule("cut")
    kept = (c.out + 1) * 1000 > c.memory.limit * c.limits.cut
    return c.logic.implies(c.logic.all(cut, c.logic.no(c.inputs.no_data)), c.logic.all(kept, c.out < c.proposal))


def violation_never_rises(c: Case) -> Any:
    """While an SLO is broken, or the window still sees the last cut, the limit never goes up, but to take it back."""
    bad = c.logic.any(c.inputs.violated, c.settling)
    return c.logic.implies(c.logic.all(bad, c.logic.no(c.returning)), c.out <= c.memory.limit)


def the_way_back_is_bounded(c: Case) -> Any:
    """A cut is taken back only to the limit before it, once it has shown in full, and while no queue is seen.

    That limit is remembered only from a cut made without a queue, and forgotten with the first queue.
    """
    up = c.logic.all(c.settling, c.out > c.memory.limit)
    kept = c.logic.all(c.settling, c.after.back == c.memory.back)
    made = c.logic.all(c.inputs.violated, c.logic.no(c.settling), c.after.back == c.memory.limit)
    blind = c.logic.any(c.inputs.queued, c.logic.all(c.inputs.no_data, c.logic.no(c.inputs.violated)))
    return c.logic.all(
        c.logic.implies(up, c.logic.all(c.out <= c.memory.back, c.inputs.end >= c.memory.cut_until)),
        c.logic.implies(up, c.logic.no(c.logic.any(c.inputs.queued, c.inputs.no_data))),
        c.logic.implies(c.after.back != 0, c.logic.any(kept, made)),
        c.logic.implies(blind, c.after.back == 0),
    )


def the_way_back_is_open(c: Case) -> Any:
    """Liveness: with max proposed and the cut in force, it is taken back by ``rise`` a second, or whole.

    The limit before a cut is remembered as long as no queue is seen.
    """
    step = c.logic.min(c.memory.back, c.limits.max) - c.memory.limit
    quiet = c.logic.no(c.logic.any(c.inputs.queued, c.inputs.no_data))
    made = c.logic.all(c.inputs.violated, c.logic.no(c.settling), quiet)
    ripe = c.logic.all(c.returning, c.logic.no(c.pending), c.inputs.end - c.memory.since >= SECOND)
    keen = c.logic.all(ripe, c.proposal >= c.limits.max, step >= c.limits.deadband)
    return c.logic.all(
        c.logic.implies(keen, c.out == c.memory.limit + c.logic.min(step, c.limits.rise)),
        c.logic.implies(made, c.after.back == c.memory.limit),
        c.logic.implies(c.logic.all(c.settling, quiet), c.after.back == c.memory.back),
    )


def cuts_once_a_window(c: Case) -> Any:
    """A window that still sees the last cut forces no second one, and moves no window."""
    settling = c.logic.all(c.settling, c.logic.no(c.inputs.no_data))
    asked = c.logic.max(c.proposal, c.limits.min)
    low = c.logic.min(asked, c.memory.limit)
    right = c.logic.any(c.out == low, c.logic.all(c.returning, c.out >= low, c.out <= asked))
    return c.logic.implies(settling, c.logic.all(right, c.after.cut_until == c.memory.cut_until))


def only_violations_move_the_window(c: Case) -> Any:
    """Without a violation, no window is opened."""
    return c.logic.implies(c.logic.no(c.inputs.violated), c.after.cut_until == c.memory.cut_until)


def cuts_pass(c: Case) -> Any:
    """A cut is never delayed. With data, a proposal below the limit passes at once, except for min and a deeper cut."""
    fresh = c.logic.all(c.inputs.violated, c.logic.no(c.settling))
    down = c.logic.all(c.proposal <= c.memory.limit, c.logic.no(c.inputs.no_data), c.logic.no(fresh))
    return c.logic.implies(down, c.out == c.logic.max(c.proposal, c.limits.min))


def safe_rises_pass(c: Case) -> Any:
    """With data, no violation and nothing pending, a rise within the rise bound passes unchanged."""
    step = c.proposal - c.memory.limit
    calm = c.logic.no(c.logic.any(c.inputs.violated, c.inputs.no_data, c.settling))
    due = step * SECOND <= c.limits.rise * c.logic.min(c.inputs.end - c.memory.since, SECOND)
    large = c.logic.any(step >= c.limits.deadband, c.proposal == c.highest)
    safe = c.logic.all(calm, step > 0, due, large, c.proposal <= c.highest)
    return c.logic.implies(safe, c.logic.all(c.out == c.proposal, c.rule == c.logic.rule("none")))


def small_rises_wait(c: Case) -> Any:
    """A rise below the deadband changes only the memory, unless it reaches max or what was decided."""
    step = c.proposal - c.memory.limit
    small = c.logic.all(step > 0, step < c.limits.deadband, c.proposal < c.highest)
    return c.logic.implies(small, c.out <= c.memory.limit)


def waiting_is_a_real_rise(c: Case) -> Any:
    """Only a proposed and permitted rise below the deadband waits; without one nothing waits."""
    waits = c.after.waiting
    held = c.rule == c.logic.rule("deadband")
    allowed = waits * SECOND <= c.limits.rise * c.logic.min(c.inputs.end - c.memory.since, SECOND)
    honest = c.logic.all(waits >= 0, waits < c.limits.deadband, waits <= c.proposal - c.memory.limit, allowed)
    full = c.logic.any(
        c.memory.limit + waits == c.proposal,
        c.logic.all(c.returning, c.memory.limit + waits == c.memory.back),
        (waits + 1) * SECOND > c.limits.rise * c.logic.min(c.inputs.end - c.memory.since, SECOND),
    )
    return c.logic.all(c.logic.implies(held, c.logic.all(honest, full)), c.logic.any(held, waits == 0))


def rises_when_there_is_room(c: Case) -> Any:
    """Liveness: with max proposed, no violation and the last decision in force, it rises by ``rise`` or to max.

    That is one second after the last change.
    Before that second it either rises by at least the deadband (or to max) or keeps its place in time, so
    max is reached within (max - min) / deadband rises, none later than one second and one sample after
    the one before.
    """
    calm = c.logic.no(c.logic.any(c.inputs.violated, c.inputs.no_data, c.settling))
    keen = c.logic.all(calm, c.logic.no(c.pending), c.proposal >= c.limits.max)
    ripe = c.logic.all(keen, c.inputs.end - c.memory.since >= SECOND)
    return c.logic.all(
        c.logic.implies(ripe, c.out == c.logic.min(c.memory.limit + c.limits.rise, c.limits.max)),
        c.logic.implies(
            keen,
            c.logic.any(
                c.logic.all(c.out == c.memory.limit, c.after.since == c.memory.since),
                c.out >= c.memory.limit + c.limits.deadband,
                c.out == c.limits.max,
            ),
        ),
    )


def higher_proposals_give_no_lower_limits(c: Case) -> Any:
    """Monotone: of two proposals, the higher one gives the same limit or a higher one."""
    out, _, _ = c.step(c.other, c.inputs)
    return c.logic.implies(c.proposal <= c.other, c.out <= out)


def bad_news_gives_no_higher_limits(c: Case) -> Any:
    """Monotone: with a violation, or without data, the same proposal gives no higher limit."""
    calm, _, _ = c.step(c.proposal, c.variant(c.inputs, False, False))
    broken, _, _ = c.step(c.proposal, c.variant(c.inputs, True, False))
    no_data, _, _ = c.step(c.proposal, c.variant(c.inputs, False, True))
    worst, _, _ = c.step(c.proposal, c.variant(c.inputs, True, True))
    return c.logic.all(broken <= calm, no_data <= calm, worst <= broken, worst <= no_data)


def rules_are_true(c: Case) -> Any:
    """The rule's name describes what happened."""
    rule = {name: c.rule == c.logic.rule(name) for name in ("none", "clamp", "rise", "deadband", "cut", "hold")}
    calm = c.logic.no(c.logic.any(c.inputs.violated, c.inputs.no_data, c.settling))
    free = c.logic.any(calm, c.returning)
    outside = c.logic.any(c.proposal < c.limits.min, c.proposal > c.limits.max)
    kept = c.logic.all(c.out == c.memory.limit, c.proposal > c.memory.limit)
    return c.logic.all(
        c.logic.implies(rule["none"], c.out == c.proposal),
        c.logic.implies(rule["clamp"], c.logic.all(outside, c.logic.any(c.out == c.limits.min, c.out == c.limits.max))),
        c.logic.implies(rule["rise"], c.logic.all(free, c.out > c.memory.limit, c.out < c.proposal)),
        c.logic.implies(rule["deadband"], c.logic.all(free, kept)),
        c.logic.implies(rule["cut"], c.logic.all(c.inputs.violated, c.out <= c.memory.limit)),
        c.logic.implies(
            rule["hold"],
            c.logic.any(
                c.logic.all(kept, c.logic.no(calm)),
                c.logic.all(c.returning, c.out == c.memory.back, c.out < c.proposal),
                c.logic.all(c.pending, c.out == c.highest, c.out < c.proposal),
            ),
        ),
        c.logic.implies(c.rule == c.logic.rule("no-data"), c.inputs.no_data),
        c.logic.implies(c.inputs.no_data, c.logic.any(c.rule == c.logic.rule("no-data"), rule["cut"])),
        c.after.limit == c.out,
    )


def rises_start_from_what_is_in_force(c: Case) -> Any:
    """Above what is in force, it lies at most one second's rise: never above what was decided and not enforced."""
    risen = (c.out - c.actual) * SECOND
    allowed = c.limits.rise * c.logic.min(c.inputs.end - c.decided.since, SECOND)
    return c.logic.implies(c.out > c.actual, risen <= allowed)


def nothing_is_raised_that_is_not_in_force(c: Case) -> Any:
    """While the last decision is not in force, the limit goes neither above it nor above what is in force."""
    return c.logic.implies(c.pending, c.out <= c.logic.max(c.decided.limit, c.actual))


def cuts_on_their_way_stay(c: Case) -> Any:
    """A cut that is not in force yet is taken back no faster than a limit rises, and not beyond what is in force."""
    on_its_way = c.decided.limit < c.actual
    risen = (c.out - c.decided.limit) * SECOND
    allowed = c.limits.rise * c.logic.min(c.inputs.end - c.decided.since, SECOND)
    slow = c.logic.any(c.out <= c.decided.limit, c.logic.all(risen <= allowed, c.out <= c.actual))
    return c.logic.implies(on_its_way, slow)


def starts_at_the_lower(c: Case) -> Any:
    """A step starts from the lower of what was decided and what is in force, and keeps the pending window."""
    same = c.logic.all(
        c.memory.since == c.decided.since,
        c.memory.cut_until == c.decided.cut_until,
        c.memory.back == c.decided.back,
    )
    lower, higher = c.logic.min(c.decided.limit, c.actual), c.logic.max(c.decided.limit, c.actual)
    started = c.logic.all(c.highest == higher, c.memory.waiting == 0)
    return c.logic.all(same, c.memory.limit == lower, c.logic.implies(c.pending, started))


def in_force_as_decided_changes_nothing(c: Case) -> Any:
    """Where the last decision is in force on the whole target, the start is what it is without any report."""
    kept = c.logic.all(c.memory.limit == c.decided.limit, c.memory.waiting == c.decided.waiting)
    return c.logic.implies(c.logic.no(c.pending), c.logic.all(kept, c.highest == c.limits.max))


CLAIMS: tuple[Callable[[Case], Any], ...] = (
    in_range,
    never_above_the_proposal,
    rise_is_bounded,
    no_data_never_rises,
    no_data_falls,
    no_data_stops_at_fail_safe,
    no_data_falls_no_faster,
    violation_cuts,
    violation_cuts_no_deeper,
    violation_never_rises,
    the_way_back_is_bounded,
    the_way_back_is_open,
    cuts_once_a_window,
    only_violations_move_the_window,
    cuts_pass,
    safe_rises_pass,
    small_rises_wait,
    waiting_is_a_real_rise,
    rises_when_there_is_room,
    higher_proposals_give_no_lower_limits,
    bad_news_gives_no_higher_limits,
    rules_are_true,
    rises_start_from_what_is_in_force,
    nothing_is_raised_that_is_not_in_force,
    cuts_on_their_way_stay,
    starts_at_the_lower,
    in_force_as_decided_changes_nothing,
)
