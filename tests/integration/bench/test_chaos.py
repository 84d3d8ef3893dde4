"""``sluice bench chaos``, for some seconds: what is promised also holds here; its figures are for the command."""

from pathlib import Path

from services.bench.availability.chaos import run_chaos, summarize
from services.plant.scenario import SCENARIOS


async def test_promises_hold_while_parts_are_killed(tmp_path: Path) -> None:
    """One part of each kind is killed or frozen: no pod restarts, every limit is in bounds, and every rule holds."""
    observed = await run_chaos(tmp_path, seconds=5.0, every_s=0.5, seed=3)
    figures = summarize(observed, SCENARIOS["demo"].domain())
    print(figures)
    assert len(observed.kills) >= 2
    assert figures["pods restarted"] == 0
    assert figures["limits out of bounds, or none"] == 0
    assert figures["parts that ended by themselves"] == 0
    assert figures["decisions and limits that broke a rule of the audit"] == 0, observed.findings.breaches
    assert max(observed.decided) > observed.kills[0].at
