"""A progress bar for long work, on standard error, and only where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from services.tools.common.output import TerminalConsole

ProgressCallback = Callable[[int], None]
"""Takes how far the work is."""


@contextmanager
def show_progress(text: str, total: int) -> Iterator[ProgressCallback]:
    """Show progress towards ``total``; gives the callback that takes the state."""
    console = TerminalConsole(stderr=True)
    description = TextColumn("{task.description}", markup=False)
    percentage = TextColumn("{task.percentage:3.0f} %")
    with Progress(
        description,
        BarColumn(),
        percentage,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(text, total=total)
        yield lambda done: progress.update(task, completed=done)
