"""The exit codes of every command, as ``docs/tools.md`` lists them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    """Done, and nothing to report."""
    FINDING = 1
    """Done, but something differs, breaks a rule, is missing or could not be read in part."""
    USAGE = 2
    """Nothing was done: the options contradict each other or match nothing."""
    UNREADABLE = 3
    """Nothing was done: the configuration or the recording cannot be used, or the output cannot be written."""
    UNAVAILABLE = 4
    """The bus or Prometheus cannot be reached, or refuses access."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C before the work was done."""
