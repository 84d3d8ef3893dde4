"""What the runs on real packets came to, and which goals that meets.  Pure arithmetic.

Several runs of one contender on one scenario (seeds) make a line: medians, so that one run that the
machine spoiled does not decide.  A run that lost more than a fifth of its seconds to the machine says
nothing, and is counted instead.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from msgspec import Struct

from services.plant.score import spread

NOBODY = "no control"
"""The contender that nobody controls."""
SUBJECT = "learned"
"""Who is held to the goals."""
MOST_INVALID = 0.2
"""Share of a run's seconds that the machine may take before the run says nothing."""
USUAL = 0.5
"""Period of the signal unless something else is asked for, seconds."""
_FAST = 0.5
"""Signals up to this period are the fast ones, seconds."""


class Cell(Struct, frozen=True):
    """One run to be played."""

    contender: str
    scenario: str
    seed: int = 0
    """Shifts the scenario's events by a part of a second: real packets are random by themselves."""
    period: float = 0.5
    """Of the signal, seconds."""

    @property
    def line(self) -> "Cell":
        """The cell without its seed: what medians are taken over."""
        return Cell(self.contender, self.scenario, -1, self.period)


class Part(Struct, frozen=True):
    """The ground truth of a part of a run."""

    seconds: int
    """Judged: neither disturbed nor outside of the part."""
    invalid: int
    """Left out because the machine itself was disturbed."""
    violation_seconds: int
    """Bad ones, all together."""
    steps: int
    """Unpredicted events."""
    step_violation_seconds: int
    """Bad seconds right after those."""
    goodput: float
    """Of all targets, as a share of what the oracle delivers."""
    patches: float
    """Changes of a limit, for each minute and pod."""

    @property
    def violation(self) -> float:
        """Share of the judged seconds that were bad."""
        return self.violation_seconds / self.seconds if self.seconds else 0.0


class Outcome(Struct, frozen=True):
    """One run; ``failed`` says in words why there are no figures."""

    cell: Cell
    learning: Part | None = None
    steady: Part | None = None
    """After the learning time."""
    reactions: tuple[float, ...] = ()
    """From each true crossing to a safe limit in force, seconds."""
    drains: tuple[float, ...] = ()
    """From then until the true latency was back below the SLO, seconds."""
    restarts: int = 0
    failed: str | None = None

    @property
    def disturbed(self) -> bool:
        """Whether the machine took so much of it that it says nothing."""
        parts = [part for part in (self.learning, self.steady) if part is not None]
        invalid = sum(part.invalid for part in parts)
        return invalid > MOST_INVALID * (invalid + sum(part.seconds for part in parts))


class Line(Struct, frozen=True):
    """All runs of one contender on one scenario by one signal: medians over them, after learning."""

    contender: str
    scenario: str
    period: float
    runs: int
    """That count."""
    left_out: int
    """Failed ones, and those that the machine disturbed."""
    violation: float
    worst_violation: float
    """In the worst of the runs."""
    goodput: float
    goodput_from: float
    """Of the worst of the runs."""
    goodput_to: float
    """Of the best."""
    per_step: float | None
    """Bad seconds for each unpredicted step."""
    learning_violation: float | None
    patches: float
    reaction: float | None
    """P95 of all runs' reactions together, seconds."""
    drain: float | None
    """Median of all runs' drains together, seconds."""
    invalid: int
    """Seconds left out, in all runs together."""


class Goal(Struct, frozen=True):
    """A bound, and what was seen of it."""

    name: str
    unit: str
    """``%``, ``s`` or empty."""
    bound: float
    at_least: bool
    """Whether the bound is the lowest value that is good, not the highest."""
    seen: float | None
    """None: not played."""
    runs: int

    @property
    def met(self) -> bool | None:
        """Whether it is; None where it was not played."""
        if self.seen is None:
            return None
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound


def counting(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The runs whose figures count."""
    return [one for one in outcomes if one.failed is None and one.steady is not None and not one.disturbed]


def summed_up(outcomes: Sequence[Outcome]) -> list[Line]:
    """One line for each contender, scenario and signal, in the order of the outcomes."""
    lines = []
    for key in dict.fromkeys(one.cell.line for one in outcomes):
        played = [one for one in outcomes if one.cell.line == key]
        if good := counting(played):
            lines.append(_line(key, good, len(played) - len(good)))
    return lines


def _line(key: Cell, runs: Sequence[Outcome], left_out: int) -> Line:
    steady = [one.steady for one in runs if one.steady is not None]
    learning = [one.learning for one in runs if one.learning is not None]
    reactions = spread([one for run in runs for one in run.reactions])
    drains = spread([one for run in runs for one in run.drains])
    steps = [one.step_violation_seconds / one.steps for one in steady if one.steps]
    return Line(
        key.contender,
        key.scenario,
        key.period,
        len(runs),
        left_out,
        violation=median(one.violation for one in steady),
        worst_violation=max(one.violation for one in steady),
        goodput=median(one.goodput for one in steady),
        goodput_from=min(one.goodput for one in steady),
        goodput_to=max(one.goodput for one in steady),
        per_step=median(steps) if steps else None,
        learning_violation=median(one.violation for one in learning) if learning else None,
        patches=median(one.patches for one in steady),
        reaction=None if reactions is None else reactions.p95,
        drain=None if drains is None else drains.p50,
        invalid=sum(one.invalid for one in (*steady, *learning)),
    )


def goals(lines: Sequence[Line]) -> list[Goal]:
    """Hold ``learned`` to each goal, and to those of a step by every signal; what was not played is there too."""
    mine = {(one.scenario, one.period): one for one in lines if one.contender == SUBJECT}
    steady, demo = mine.get(("steady", USUAL)), mine.get(("demo", USUAL))
    told = [
        _goal("steady: SLO-violation time", "%", 0.005, steady, lambda line: line.violation),
        _goal("steady: goodput of the oracle's", "%", 0.95, steady, lambda line: line.goodput, at_least=True),
        _goal("steady: patches a minute and pod", "", 4.0, steady, lambda line: line.patches),
        _goal(
            "disturbed run: goodput of the switching oracle's",
            "%",
            0.88,
            demo,
            lambda line: line.goodput,
            at_least=True,
        ),
    ]
    steps = {period: line for (scenario, period), line in mine.items() if scenario == "step"}
    for period in sorted({*steps, USUAL, 1.0}):
        step, signal = steps.get(period), f"{period * 1000:g} ms signal"
        bad = 2.0 if period <= _FAST else 3.0
        told.append(_goal(f"step, {signal}: bad seconds each", "s", bad, step, lambda line: line.per_step))
        # Two periods, and the time that the queue takes to drain under the limit that is safe.
        late = 2 * period + ((step and step.drain) or 0.0)
        told.append(_goal(f"step, {signal}: reaction, P95", "s", late, step, lambda line: line.reaction))
    return told


def _goal(
    name: str,
    unit: str,
    bound: float,
    line: Line | None,
    seen: Callable[[Line], float | None],
    *,
    at_least: bool = False,
) -> Goal:
    return Goal(name, unit, bound, at_least, seen(line) if line else None, line.runs if line else 0)
