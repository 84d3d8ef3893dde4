"""The exit codes of every command, as ``docs/tools.md`` lists them."""

from enum import IntEnum

import click

from services.common.os_errors import describe_os_error


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    """Done, and nothing to report."""
    FINDING = 1
    """Done, but something differs, breaks a rule, is missing or could not be read in part."""
    USAGE = 2
    """Nothing was done: the options contradict each other or match nothing, or this machine lacks a program."""
    UNREADABLE = 3
    """Nothing was done: configuration, recording or the address to listen on cannot be used, or no output written."""
    UNAVAILABLE = 4
    """The bus or Prometheus cannot be reached, or refuses access."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C before the work was done."""


class CommandFailure(click.ClickException):
    """A command cannot go on: click prints the text, and ends with the code."""

    def __init__(self, error: Exception | str, code: ExitCode) -> None:
        """Build the failure from its text, or from the exception that caused it."""
        super().__init__(describe_os_error(error) if isinstance(error, OSError) else str(error))
        self.exit_code = int(code)  # type: ignore[misc]  # click itself sets it on instances
