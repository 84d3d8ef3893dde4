"""Limits the processor time of a policy: one that takes too long is not asked for a number of steps.

A slow proposal is still used, since it has already arrived.  The time-out changes an input of the steps
that follow (``fault``), which their decisions record, so that a replay takes the same branch at any speed.
"""

import time
from collections.abc import Callable
from typing import Any

from services.control.observation import Observation
from services.control.policy import Bounds, Policy, Proposal

STEP_S = 0.02
"""Processor time that one proposal may take.  A learned policy needs some 10 us."""
_LONGEST_REST = 64


class TimedPolicy:
    """A policy, and how long its last proposal took."""

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.thread_time, limit_s: float = STEP_S) -> None:
        """Measure ``policy`` by the processor time of its thread, which a busy machine does not lengthen."""
        self.version = policy.version
        self.memory_type = policy.memory_type
        self._policy = policy
        self._clock = clock
        self._limit_s = limit_s
        self._rest = 0
        self._left = 0
        self._why = ""

    def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """The policy's own; the time that it takes decides on ``fault``."""
        began = self._clock()
        try:
            return self._policy.propose(memory, seen, bounds)
        finally:
            took_s = self._clock() - began
            if took_s <= self._limit_s:
                self._rest = 0
            else:
                self._rest = self._left = min(max(2 * self._rest, 1), _LONGEST_REST)
                self._why = f"{self.version} took {took_s * 1000:.1f} ms of {self._limit_s * 1000:g}"

    @property
    def fault(self) -> str | None:
        """Why the policy may not be asked at the next step; None where it may.

        It rests for one step after the first excess, and twice as long after each that follows at once.
        """
        return self._why if self._left else None

    def skip_step(self) -> None:
        """Count a step at which the policy was not asked."""
        self._left -= 1
