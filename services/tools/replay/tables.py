"""What a replay found, as tables for people."""

from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.table import Table

from services.tools.common.output import TerminalConsole
from services.tools.replay.comparison import CAVEAT, PolicyStatistics
from services.tools.replay.verifier import Remark, ReplayTally

_MOST_ROWS = 30
_MOST_REMARKS = 5


def show_verification(console: TerminalConsole, title: str, tallies: Mapping[str, ReplayTally], took: float) -> None:
    """The recorded decisions, made again; ``took`` is in seconds."""
    table = _new_table(title, "domain")
    for column in ("samples", "identical", "different", "as given", "no decision"):
        table.add_column(column, justify="right")
    # What needs to be looked at comes first, where there is not room for all.
    ranked = sorted(tallies.items(), key=lambda item: (-_count_wrong(item[1]), -len(item[1].notes)))
    for name, tally in ranked[:_MOST_ROWS]:
        table.add_row(name, *_format_counts([tally]), style="red" if _count_wrong(tally) else None)
    if len(tallies) > 1:
        table.add_section()
        table.add_row(f"{len(tallies)} domains", *_format_counts(list(tallies.values())))
    console.print(table)
    samples = sum(tally.samples for tally in tallies.values())
    console.print(f"{samples:,} samples in {took:.2f} s: {samples / max(took, 1e-9):,.0f} a second")
    for name, tally in tallies.items():
        for remarks, style, count in (
            (tally.notes, "yellow", len(tally.notes)),
            (_format_remarks(tally.holes), "red", tally.missing),
            (_format_remarks(tally.silent), "red", tally.unanswered),
            (_format_remarks(tally.differences), "red", tally.different),
        ):
            for remark in remarks[:_MOST_REMARKS]:
                console.print(f"{name}: {remark}", style=style, soft_wrap=True)
            if count > _MOST_REMARKS:
                console.print(f"{name}: and {count - _MOST_REMARKS:,} more", style=style)


def _count_wrong(tally: ReplayTally) -> int:
    return tally.different + tally.missing + tally.unanswered


def _format_counts(tallies: list[ReplayTally]) -> list[str]:
    names = ("samples", "identical", "different", "given")
    unanswered = sum(tally.unanswered + tally.waiting for tally in tallies)
    return [*(f"{sum(getattr(tally, name) for tally in tallies):,}" for name in names), f"{unanswered:,}"]


def _format_remarks(remarks: Sequence[Remark]) -> list[str]:
    return [f"sample {one.sample}: {one.what}" for one in remarks]


def show_comparison(
    console: TerminalConsole, found: Mapping[str, Mapping[str, PolicyStatistics]], per_pod: Collection[str]
) -> None:
    """What several policies would have set, side by side; ``per_pod`` are the domains with limits for each pod."""
    domains = list(dict.fromkeys(domain for of in found.values() for domain, figures in of.items() if figures.samples))
    for domain in domains[:_MOST_ROWS]:
        once = ", those for each pod counted once" if domain in per_pod else ""
        table = _new_table(f"Domain {domain}: best-effort limits, in Mbit/s{once}", "policy")
        for column in ("mean", "min", "max", "above", "below", "moves", "cuts", "shield"):
            table.add_column(column, justify="right", no_wrap=True)
        for variant, of in found.items():
            if domain not in of or not (count := of[domain].samples):
                continue
            one = of[domain]
            rates = ("-" if rate is None else f"{rate / 1000:.1f}" for rate in (one.mean, one.lowest, one.highest))
            moves = "-" if one.changes_per_minute is None else f"{one.changes_per_minute:.1f}"
            above, below, shield = (f"{part / count:.0%}" for part in (one.above, one.below, one.shielded))
            table.add_row(variant, *rates, above, below, moves, f"{one.cuts:,}", shield)
        console.print(table)
    if len(domains) > _MOST_ROWS:
        console.print(f"and {len(domains) - _MOST_ROWS} more domains; --json has them all")
    console.print(
        "above, below: share of samples with limits above or below the recorded ones.  "
        "moves: how often limits changed, a minute.  "
        "cuts: limits that the shield cut.  "
        "shield: share of samples on which it changed the policy's proposal.",
        highlight=False,
    )
    for of in found.values():
        samples, violated, blind = (sum(getattr(f, n) for f in of.values()) for n in ("samples", "violated", "blind"))
        if samples:
            console.print(f"In {violated:,} of {samples:,} windows an SLO was broken, {blind:,} had no data.")
            break
    console.print(CAVEAT, style="italic")


def _new_table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table
