"""Points in time as people write them on the command line."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from schemas.units import Duration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS = 253_402_300_799 * 10**9
"""The end of the year 9999."""


class Moment(click.ParamType[int]):
    """``10m`` (before now), or an RFC 3339 time; UTC ns inside."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            ago = Duration.parse(value)
        except ValueError:
            return self._at(value, param, ctx)
        moment = time.time_ns() - ago
        if moment < 0:
            self.fail(f"{value!r} is before 1970", param, ctx)
        return moment

    def _at(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r}: expected a stretch of time before now such as 10m, or 2026-11-23T18:00:00Z", param, ctx
            )
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone: add Z for UTC, or +01:00", param, ctx)
        if moment.year < _EPOCH.year:
            self.fail(f"{value!r} is before 1970", param, ctx)
        return nanoseconds(moment)


class Span(click.ParamType[int]):
    """A duration such as ``90s``; ns inside."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def nanoseconds(moment: datetime) -> int:
    """UTC ns, exact to the microsecond that a datetime has."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def datetime_of(ns: int) -> datetime:
    """The microsecond that UTC ns lie in; for what no calendar has, the nearest that one has."""
    ns = min(max(ns, 0), _LAST_NS)
    return datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)


def clock(ns: int) -> str:
    """A moment for people: date and time of day in UTC, to the millisecond."""
    return f"{datetime_of(ns):%Y-%m-%d %H:%M:%S}.{ns % 10**9 // 10**6:03d}Z"
