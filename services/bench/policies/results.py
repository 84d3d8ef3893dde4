"""Results of runs of policies, on the simulated plant and on real packets.  Pure arithmetic.

An ``Outcome`` is one run.  A ``ScenarioSummary`` is one contender on one scenario: medians over seeds, so that one
run that the machine disturbed does not decide.  A ``Summary`` is one contender over all scenarios.
"""

from collections.abc import Iterable, Sequence
from statistics import mean, median

from msgspec import Struct

from services.plant.scenario import Scenario
from services.plant.score import Reaction, Score, spread

UNCONTROLLED = "no control"
"""The contender without a controller."""
SUBJECT = "learned"
"""The contender that is held to the goals."""
MAX_INVALID = 0.2
"""A run that lost a larger share of its seconds to the machine does not count."""
USUAL_PERIOD = 0.5
"""Default period of the signal, seconds."""
_S = 10**9


class Cell(Struct, frozen=True):
    """What identifies one run."""

    contender: str
    scenario: str
    seed: int = 0
    """Shifts the scenario's events by a part of a second; on the simulated plant also seeds its randomness."""
    period: float = USUAL_PERIOD
    """Of the signal, seconds."""

    @property
    def unseeded(self) -> "Cell":
        """The cell without its seed: what medians are taken over."""
        return Cell(self.contender, self.scenario, -1, self.period)

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{self.contender} on {self.scenario}, {self.period * 1000:g} ms, seed {self.seed}"


class Part(Struct, frozen=True):
    """Figures of a part of a run, from the ground truth."""

    seconds: int
    """How many were judged."""
    invalid: int
    """How many were left out because the machine was disturbed."""
    violation_seconds: int
    """How many of the judged ones were bad."""
    steps: int
    """How many unpredicted events there were."""
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

    @property
    def own_violation(self) -> float:
        """The same without the bad seconds right after unpredicted events."""
        return (self.violation_seconds - self.step_violation_seconds) / self.seconds if self.seconds else 0.0


class Outcome(Struct, frozen=True):
    """One run; ``failed`` is the reason for missing figures."""

    cell: Cell
    learning: Part | None = None
    steady: Part | None = None
    """After the learning time."""
    reactions: tuple[float, ...] = ()
    """From each true crossing of the SLO to a safe limit in force, seconds."""
    drains: tuple[float, ...] = ()
    """From then until the true latency was back below the SLO, seconds."""
    restarts: int = 0
    overruns: int = 0
    """Decisions that called a limit not enforced; every limit was."""
    failed: str | None = None

    @property
    def is_disturbed(self) -> bool:
        """Whether it lost too many seconds to the machine."""
        parts = [part for part in (self.learning, self.steady) if part is not None]
        invalid = sum(part.invalid for part in parts)
        return invalid > MAX_INVALID * (invalid + sum(part.seconds for part in parts))


class ScenarioSummary(Struct, frozen=True, kw_only=True):
    """All runs of one contender on one scenario by one signal: medians over them, after learning."""

    contender: str
    scenario: str
    period: float
    runs: int
    """How many count."""
    left_out: int
    """Failed ones, and those that the machine disturbed."""
    violation: float
    own_violation: float
    """Without the bad seconds right after unpredicted events."""
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


class Summary(Struct, frozen=True, kw_only=True):
    """One contender over all runs; medians over seeds, means over scenarios, after learning."""

    contender: str
    violation: float
    """Share of the judged seconds that were bad, but for those right after unpredicted steps."""
    violation_mean: float
    """The same with means over seeds: what a rare bad seed adds."""
    violation_most: float
    """The same with the worst seed of each scenario."""
    goodput: float
    per_step: float | None
    """Bad seconds for each unpredicted step."""
    worst: str
    """The scenario with the most violations, or else the least goodput."""
    worst_violation: float
    worst_goodput: float
    least: str
    """The scenario with the least goodput."""
    least_goodput: float
    learning_violation: float
    patches: float
    """In the steady scenario, for each minute and pod."""


def judge(
    cell: Cell,
    scenario: Scenario,
    scores: tuple[Score, Score],
    pods: int,
    reactions: Iterable[Reaction],
    recoveries: Sequence[int] = (),
) -> Outcome:
    """Judge a run that was played to its end.

    Args:
        cell: what it was.
        scenario: as it was played.
        scores: of the whole run, and of what came after the learning time.
        pods: how many best-effort pods there were.
        reactions: to crossings after the learning time.
        recoveries: when the true latency was back below the SLO after each crossing, UTC ns.
    """
    whole, steady = scores
    reactions = tuple(reactions)
    drains = []
    for one in reactions:
        back = next((at for at in recoveries if at > one.crossed), None)
        if back is not None:
            drains.append(round(max(back - one.in_force, 0) / _S, 4))

    def part(plus: Score, minus: Score | None, seconds: float) -> Part:
        def difference(name: str) -> int:
            return int(getattr(plus, name)) - (int(getattr(minus, name)) if minus else 0)

        goodput, oracle = plus.goodput * plus.seconds, plus.oracle * plus.seconds
        if minus is not None:
            goodput, oracle = goodput - minus.goodput * minus.seconds, oracle - minus.oracle * minus.seconds
        return Part(
            seconds=difference("seconds"),
            invalid=difference("invalid_windows"),
            violation_seconds=difference("violation_seconds"),
            steps=difference("steps"),
            step_violation_seconds=difference("step_violation_seconds"),
            goodput=round(goodput / oracle, 5) if oracle else 0.0,
            patches=round(difference("patches") * 60 / seconds / max(pods, 1), 3),
        )

    learning = scenario.learning
    return Outcome(
        cell,
        learning=part(whole, steady, learning) if learning else None,
        steady=part(steady, None, scenario.seconds - learning),
        reactions=tuple(round((one.in_force - one.crossed) / _S, 4) for one in reactions),
        drains=tuple(drains),
        restarts=whole.restarts,
    )


def summarize_scenarios(outcomes: Sequence[Outcome]) -> list[ScenarioSummary]:
    """One for each contender, scenario and signal that has runs that count, in the order of the outcomes."""
    summaries = []
    for key in dict.fromkeys(one.cell.unseeded for one in outcomes):
        played = [one for one in outcomes if one.cell.unseeded == key]
        runs = [one for one in played if one.failed is None and one.steady is not None and not one.is_disturbed]
        if not runs:
            continue
        steady = [one.steady for one in runs if one.steady is not None]
        learning = [one.learning for one in runs if one.learning is not None]
        steps = [one.step_violation_seconds / one.steps for one in steady if one.steps]
        reactions = spread([one for run in runs for one in run.reactions])
        drains = spread([one for run in runs for one in run.drains])
        summary = ScenarioSummary(
            contender=key.contender,
            scenario=key.scenario,
            period=key.period,
            runs=len(runs),
            left_out=len(played) - len(runs),
            violation=median(one.violation for one in steady),
            own_violation=median(one.own_violation for one in steady),
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
        summaries.append(summary)
    return summaries


def summarize_contenders(outcomes: Sequence[Outcome]) -> list[Summary]:
    """One summary for each contender, in the order of the outcomes; all of them count."""
    summaries = []
    for contender in dict.fromkeys(one.cell.contender for one in outcomes):
        runs = [one for one in outcomes if one.cell.contender == contender]
        steady = [(one.cell.scenario, one.steady) for one in runs if one.steady is not None]
        scenarios = {name: [part for at, part in steady if at == name] for name, _ in steady}
        shares = {name: [part.own_violation for part in parts] for name, parts in scenarios.items()}
        violation = {name: median(each) for name, each in shares.items()}
        goodput = {name: median(part.goodput for part in parts) for name, parts in scenarios.items()}
        worst = max(violation, key=lambda name: (violation[name], -goodput[name]))
        least = min(goodput, key=lambda name: goodput[name])
        steps = sum(part.steps for _, part in steady)
        learning = [one.learning for one in runs if one.learning is not None]
        learning_seconds = sum(part.seconds for part in learning)
        summary = Summary(
            contender=contender,
            violation=mean(violation.values()),
            violation_mean=mean(mean(each) for each in shares.values()),
            violation_most=mean(max(each) for each in shares.values()),
            goodput=mean(goodput.values()),
            per_step=sum(part.step_violation_seconds for _, part in steady) / steps if steps else None,
            worst=worst,
            worst_violation=violation[worst],
            worst_goodput=goodput[worst],
            least=least,
            least_goodput=goodput[least],
            learning_violation=sum(part.violation_seconds for part in learning) / learning_seconds
            if learning_seconds
            else 0.0,
            patches=median(part.patches for part in scenarios["steady"]) if "steady" in scenarios else 0.0,
        )
        summaries.append(summary)
    return summaries
