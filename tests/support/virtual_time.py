"""An event loop whose time passes only while nothing else happens: an hour of waiting takes seconds.

Real sockets on loopback work in it: what one task sends, another in the same loop receives before time passes.
"""

import asyncio
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_LOOPBACK_S = 0.002
"""How long, in real time, a packet on loopback is waited for."""


class VirtualClock:
    """Seconds and nanoseconds that are advanced by hand."""

    def __init__(self) -> None:
        """Begin now."""
        self._utc = time.time_ns()
        self.passed_s = 0.0

    def steady(self) -> float:
        """Seconds."""
        return self.passed_s

    def utc(self) -> int:
        """UTC ns."""
        return self._utc + int(self.passed_s * 1e9)


class _Selector(selectors.DefaultSelector):
    """Waits by advancing the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        ready = super().select(None if timeout is None else _LOOPBACK_S)
        if not ready and timeout is not None:
            self._clock.passed_s += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """Ends its threads however long that takes: a limit would pass at once."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await super().shutdown_default_executor()


@contextmanager
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[asyncio.Runner, VirtualClock]]:
    """A runner with a clock of its own, which everything asks that looks at the time meanwhile."""
    clock = VirtualClock()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", clock.steady)
        patched.setattr(time, "time_ns", clock.utc)
        patched.setattr(time, "time", lambda: clock.utc() / 1e9)
        with asyncio.Runner(loop_factory=lambda: _Loop(_Selector(clock))) as runner:
            yield runner, clock
