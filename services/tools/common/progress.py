"""A progress bar on long work, on standard error, where a person looks on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from services.tools.common.recording import Reader

Told = Callable[[int], None]
"""Takes how far the work is."""


@contextmanager
def reading(reader: Reader) -> Iterator[Told]:
    """Show how much of a recording has been read; gives what is to be told of the offset."""
    with bar(f"reading {reader.path.name}", reader.size) as told:
        yield told


@contextmanager
def bar(what: str, total: int) -> Iterator[Told]:
    """Show progress towards ``total``; gives what is to be told of the state."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as p:
        task = p.add_task(what, total=total)
        yield lambda done: p.update(task, completed=done)
