"""The table of ``sluice bench policies`` with one row for each case."""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.table import Table

from services.bench.bound.search import INFORMED, PROBING
from services.bench.policies.catalogue import CASES
from services.bench.policies.results import SUBJECT, ScenarioSummary
from services.bench.policies.tables import RIVALS, new_table


def by_case(lines: Sequence[ScenarioSummary]) -> dict[str, dict[str, ScenarioSummary]]:
    """The summaries by case, then by contender, in the order of the lines."""
    cases: dict[str, dict[str, ScenarioSummary]] = {name: {} for name in CASES}
    for one in lines:
        cases.setdefault(one.scenario, {})[one.contender] = one
    return {name: contenders for name, contenders in cases.items() if contenders}


def better_rivals(contenders: Mapping[str, ScenarioSummary]) -> list[ScenarioSummary]:
    """Contenders that are as safe as the subject on a case and deliver more, the best first.

    The bad seconds right after unpredicted steps count, too: a step is over sooner under a policy that left more room.
    """
    mine = contenders.get(SUBJECT)
    if mine is None:
        return []
    better = [
        one
        for one in contenders.values()
        if one.contender != SUBJECT
        and one.violation <= mine.violation
        and one.own_violation <= mine.own_violation
        and one.goodput > mine.goodput
    ]
    return sorted(better, key=lambda one: -one.goodput)


def cases_table(lines: Sequence[ScenarioSummary], bounds: Sequence[ScenarioSummary] = ()) -> Table:
    """One row for each case and contender, the subject first, with its shares of the oracle and of the bounds."""
    table = new_table(
        ("case", "policy", "bad", "worst", "oracle", "informed", "probing", "s/step", "patch", RIVALS),
        "after learning; medians over seeds (worst: the worst seed); oracle, informed, probing: goodput as a share of "
        "the clairvoyant's and of both causal bounds'; s/step: bad seconds for each unpredicted step, which bad does "
        "not count; patch: patches a minute and pod; rivals: as safe, and deliver more",
    )
    best = by_case(bounds)
    for name, contenders in by_case(lines).items():
        rivals = ", ".join(f"{one.contender} {one.goodput:.0%}" for one in better_rivals(contenders)[:2])
        rows = sorted(contenders.values(), key=lambda one: one.contender != SUBJECT)
        for number, one in enumerate([*rows, *best.get(name, {}).values()]):
            table.add_row(
                shorten(name) if number == 0 else "",
                one.contender,
                f"{one.own_violation:.2%}",
                f"{one.worst_violation:.1%}",
                f"{one.goodput:.1%}",
                *(share_of(best.get(name, {}).get(kind), one) for kind in (INFORMED, PROBING)),
                "-" if one.per_step is None else f"{one.per_step:.1f}",
                f"{one.patches:.0f}",
                rivals if one.contender == SUBJECT else "",
            )
    return table


def shorten(name: str) -> str:
    """A trace's name, which may be long: its beginning and its end."""
    return name if len(name) <= 24 else f"{name[:10]}…{name[-13:]}"


def share_of(bound: ScenarioSummary | None, one: ScenarioSummary) -> str:
    """A contender's goodput as a share of a bound's."""
    return f"{one.goodput / bound.goodput:.0%}" if bound is not None and bound.goodput else "-"


def traces_table(lines: Sequence[ScenarioSummary], bounds: Sequence[ScenarioSummary] = ()) -> Table:
    """One row for each contender over all traces."""
    probing = {one.scenario: one.goodput for one in bounds if one.contender == PROBING}
    table = new_table(
        ("policy", "traces", "bad", "worst tenth", "goodput", "least tenth", "probing"),
        "over traces: medians, and what a tenth of the traces exceeds, or falls below; probing: share of that bound",
    )
    for contender in dict.fromkeys(one.contender for one in lines):
        mine = [one for one in lines if one.contender == contender]
        bad = sorted(one.own_violation for one in mine)
        goodput = sorted(one.goodput for one in mine)
        shares = [one.goodput / probing[one.scenario] for one in mine if probing.get(one.scenario)]
        tenth = len(mine) // 10
        table.add_row(
            contender,
            f"{len(mine)}",
            f"{median(bad):.2%}",
            f"{bad[-1 - tenth]:.1%}",
            f"{median(goodput):.1%}",
            f"{goodput[tenth]:.1%}",
            f"{median(shares):.0%}" if shares else "-",
        )
    return table
