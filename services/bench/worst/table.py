"""``sluice bench memory --worst``: the table of all services, and whether each is within its limit."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from services.bench.goals import Goal, add_to_file
from services.bench.worst import services
from services.bench.worst.manifest_limits import read_limits
from services.runtime.exit_codes import CommandFailure, ExitCode

MEASURES: dict[str, tuple[Callable[[], float | None], ...]] = {
    "sampler": (services.measure_sampler_page, services.measure_sampler_answer),
    "decision": (services.measure_decision,),
    "actuator": (services.measure_actuator_targets, services.measure_actuator_pods),
    "exporter": (services.measure_exporter,),
    "meter": (services.measure_meter,),
    "ui": (services.measure_ui,),
    "echo": (services.measure_echo,),
}
"""What is measured, by the name of the container; the docstring of each says what its input is."""

_ARENAS = "MALLOC_ARENA_MAX"


class WorstCase(Struct, frozen=True):
    """A service at one of its worst inputs."""

    service: str
    worst_input: str
    peak_mib: float | None
    """None: not measured, because this machine lacks a program."""
    limit_mib: float

    @property
    def goal(self) -> Goal:
        """As a figure among those of other benches."""
        name = f"{self.service}, {self.worst_input}, resident at most, MiB"
        return Goal(name, self.peak_mib, f"<= {self.limit_mib:g}")


def measure_worst(only: tuple[str, ...], path: Path | None) -> None:
    """Measure, print the table, and write the file.

    Args:
        only: names of services; empty for all.
        path: of a file of figures; None for none.

    Raises:
        CommandFailure: a service is above its limit, or none has that name.
    """
    if unknown := set(only) - set(MEASURES):
        raise CommandFailure(f"--only: no such service: {', '.join(sorted(unknown))}", ExitCode.USAGE)
    limits = read_limits()
    with _allocate_as_image():
        cases = [
            WorstCase(name, (measure.__doc__ or "").strip().rstrip("."), measure(), limits[name])
            for name, measures in MEASURES.items()
            if not only or name in only
            for measure in measures
        ]
    Console().print(build_table(cases))
    if path is not None:
        add_to_file("memory, worst", [case.goal for case in cases], path)
    if over := [case.service for case in cases if case.goal.met is False]:
        raise CommandFailure(f"above the manifest's limit: {', '.join(over)}", ExitCode.FINDING)


@contextmanager
def _allocate_as_image() -> Iterator[None]:
    """Let processes that start meanwhile allocate as in the image, where glibc keeps fewer pools of freed memory."""
    before = os.environ.get(_ARENAS)
    os.environ[_ARENAS] = "2"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ARENAS]
        else:
            os.environ[_ARENAS] = before


def build_table(cases: list[WorstCase]) -> Table:
    """One row a case."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("service", "worst input", "resident at most", "limit", "share"):
        table.add_column(heading, justify="left" if heading in ("service", "worst input") else "right")
    for case in cases:
        seen = case.peak_mib
        figures = ("not measured", "") if seen is None else (f"{seen:.1f} MiB", f"{seen / case.limit_mib:.0%}")
        table.add_row(case.service, case.worst_input, figures[0], f"{case.limit_mib:g} MiB", figures[1])
    return table
