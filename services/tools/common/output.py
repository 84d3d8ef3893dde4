r"""Everything that a tool prints goes through here, so that no name or reason can command the terminal.

Names, reasons and errors come from the bus, from recordings and from servers.  A control character in
them is shown as an escape such as ``\x1b``.
"""

import re
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from services.common.os_errors import describe_os_error
from services.runtime.exit_codes import CommandFailure, ExitCode

_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Control characters of ASCII and Latin-1, line separators, and those that reverse the direction of text."""
_CONTROL = re.compile(f"[{_UNSAFE}]")
_CONTROL_OR_LAYOUT = re.compile(f"[\t\n{_UNSAFE}]")


class CommandError(CommandFailure):
    """A tool cannot go on; the text names what and where."""

    def __init__(self, error: Exception | str, code: ExitCode) -> None:
        """Build the error from its text, or from the exception that caused it."""
        super().__init__(escape_controls(describe_os_error(error) if isinstance(error, OSError) else str(error)), code)


class TerminalConsole(Console):
    """A console that takes text as it is, without markup, and escapes its control characters."""

    def __init__(self, **settings: Any) -> None:
        """Accept what ``rich.console.Console`` accepts."""
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as ``Console`` does; only Rich's own segments may control the terminal."""
        for segment in super().render(renderable, options):
            if segment.control is None and _CONTROL.search(segment.text):
                yield Segment(escape_controls(segment.text), segment.style)
            else:
                yield segment


def escape_controls(text: str) -> str:
    """Escape control characters, but for tabs and line feeds."""
    return _CONTROL.sub(_escape, text)


def escape_line(text: str) -> str:
    """Escape all control characters: the text stays on one line, and cannot contain a forged second one."""
    return _CONTROL_OR_LAYOUT.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def print_line(text: str) -> None:
    """Print to standard output."""
    click.echo(escape_controls(text))


def print_warning(text: str) -> None:
    """Print to standard error."""
    click.echo(escape_controls(text), err=True)


def print_json(text: bytes) -> None:
    r"""Print JSON; a control character that JSON allows in a string is written as ``\u`` and four digits."""
    click.echo(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text.decode("utf-8", "replace")))
