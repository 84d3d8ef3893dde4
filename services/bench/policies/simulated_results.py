"""What a run of ``sluice bench policies`` gave, and what many runs add up to."""

from collections.abc import Sequence
from statistics import mean, median

from msgspec import Struct
from rich import box
from rich.table import Table


class Result(Struct, frozen=True):
    """One run."""

    contender: str
    scenario: str
    seed: int
    seconds: int
    """Judged: after the learning time."""
    violation_seconds: int
    """Bad seconds among them, but for those right after unpredicted steps."""
    steps: int
    step_violation_seconds: int
    goodput: float
    """Share of the oracle's."""
    learning_seconds: int
    learning_violation_seconds: int
    patches_per_minute: float
    reaction: float | None
    """From a true crossing to a safe limit in force: P95, seconds."""


class Summary(Struct, frozen=True):
    """One contender over all runs; medians over seeds, means over scenarios."""

    contender: str
    violation: float
    """Share of the judged seconds."""
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
    patches_per_minute: float
    """In the steady scenario."""


def summed_up(results: Sequence[Result]) -> list[Summary]:
    """One line for each contender, in the order of the results."""
    return [
        _summary([one for one in results if one.contender == name])
        for name in dict.fromkeys(one.contender for one in results)
    ]


def _summary(runs: Sequence[Result]) -> Summary:
    violation, means, most, goodput = {}, [], [], {}
    for name in dict.fromkeys(one.scenario for one in runs):
        seeds = [one for one in runs if one.scenario == name]
        shares = [one.violation_seconds / max(one.seconds, 1) for one in seeds]
        violation[name] = median(shares)
        means.append(mean(shares))
        most.append(max(shares))
        goodput[name] = median(one.goodput for one in seeds)
    worst = max(violation, key=lambda name: (violation[name], -goodput[name]))
    least = min(goodput, key=lambda name: goodput[name])
    steps, learning = sum(one.steps for one in runs), sum(one.learning_seconds for one in runs)
    steady = [one.patches_per_minute for one in runs if one.scenario == "steady"]
    return Summary(
        contender=runs[0].contender,
        violation=mean(violation.values()),
        violation_mean=mean(means),
        violation_most=mean(most),
        goodput=mean(goodput.values()),
        per_step=sum(one.step_violation_seconds for one in runs) / steps if steps else None,
        worst=worst,
        worst_violation=violation[worst],
        worst_goodput=goodput[worst],
        least=least,
        least_goodput=goodput[least],
        learning_violation=sum(one.learning_violation_seconds for one in runs) / learning if learning else 0.0,
        patches_per_minute=median(steady) if steady else 0.0,
    )


def table(summaries: Sequence[Summary]) -> Table:
    """The result for people."""
    lines = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="after learning; medians over seeds (worst: the worst seed), means over scenarios",
    )
    headings = ("policy", "violated", "worst", "goodput", "s/step", "most violated", "learn")
    for heading in headings:
        lines.add_column(heading, justify="left" if heading in ("policy", "most violated") else "right", no_wrap=True)
    for one in summaries:
        lines.add_row(
            one.contender,
            f"{one.violation:.2%}",
            f"{one.violation_most:.1%}",
            f"{one.goodput:.1%}",
            "-" if one.per_step is None else f"{one.per_step:.1f}",
            f"{one.worst} {one.worst_violation:.1%}" if one.worst_violation else "none",
            f"{one.learning_violation:.1%}",
        )
    return lines
