"""Points in time and durations: on the command line, as nanoseconds, and as text."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from schemas.units import Duration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS = 253_402_300_799 * 10**9
"""The end of the year 9999."""


class TimeParam(click.ParamType[int]):
    """An option such as ``10m`` (before now) or an RFC 3339 time; becomes UTC ns."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option."""
        if isinstance(value, int):
            return value
        try:
            ns = time.time_ns() - Duration.parse(value)
        except ValueError:
            try:
                parsed = datetime.fromisoformat(value)
            except ValueError:
                self.fail(f"{value!r}: expected a duration before now such as 10m, or 2026-11-23T18:00:00Z", param, ctx)
            if parsed.tzinfo is None:
                self.fail(f"{value!r} has no time zone: add Z for UTC, or +01:00", param, ctx)
            ns = to_nanoseconds(parsed)
        if ns < 0:
            self.fail(f"{value!r} is before 1970", param, ctx)
        return ns


class DurationParam(click.ParamType[int]):
    """An option such as ``90s``; becomes ns, and is longer than nothing."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option."""
        if isinstance(value, int):
            return value
        try:
            duration = Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if duration <= 0:
            self.fail(f"{value!r}: expected a duration above zero", param, ctx)
        return duration


def require_order(since: int | None, until: int | None) -> None:
    """Refuse a range that ends before it begins, or begins in the future.  Times are UTC ns.

    Raises:
        click.UsageError: it names both ends.
    """
    if since is not None and until is not None and until <= since:
        raise click.UsageError(f"the end, {format_time(until)}, is not after the beginning, {format_time(since)}")
    if since is not None and since > time.time_ns():
        raise click.UsageError(f"the beginning, {format_time(since)}, lies in the future")


def to_nanoseconds(moment: datetime) -> int:
    """Convert to UTC ns, exact to the microsecond that a datetime has."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def to_datetime(ns: int) -> datetime:
    """Convert UTC ns to the microsecond that they lie in; a time outside the calendar gives its nearest end."""
    ns = min(max(ns, 0), _LAST_NS)
    return datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)


def format_time(ns: int) -> str:
    """Format UTC ns as date and time of day, to the millisecond."""
    return f"{to_datetime(ns):%Y-%m-%d %H:%M:%S}.{ns % 10**9 // 10**6:03d}Z"
