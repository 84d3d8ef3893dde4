"""Holds a policy to its time: one that takes too long is not asked for a while.

The policy's answer to the slow step still counts, because waiting for it is over.  What changes is
an input of the steps that follow (``fault``), and stands in their decisions, so that a replay takes
the same branch at any speed.
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
    """A policy, and how long it took."""

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.thread_time, limit_s: float = STEP_S) -> None:
        """Measure ``policy`` by the processor time of its thread: waiting for a busy machine is not its fault."""
        self._policy = policy
        self._clock = clock
        self._limit_s = limit_s
        self._rest = 0
        self._left = 0
        self._why = ""

    @property
    def version(self) -> str:
        """The policy's own."""
        return self._policy.version

    @property
    def memory_type(self) -> type[Any]:
        """The policy's own."""
        return self._policy.memory_type

    def first(self) -> Any:
        """The policy's own."""
        return self._policy.first()

    def propose(self, memory: Any, seen: Observation, bounds: Bounds) -> Proposal:
        """The policy's own; what it takes decides on ``fault``."""
        began = self._clock()
        try:
            return self._policy.propose(memory, seen, bounds)
        finally:
            self._judge(self._clock() - began)

    def _judge(self, took_s: float) -> None:
        if took_s <= self._limit_s:
            self._rest = 0
            return
        self._rest = min(max(2 * self._rest, 1), _LONGEST_REST)
        self._left = self._rest
        self._why = f"{self.version} took {took_s * 1000:.1f} ms of {self._limit_s * 1000:g}"

    def fault(self) -> str | None:
        """Why the policy may not be asked at this step; to be called once a step.

        It rests for one step after the first excess, and twice as long after each that follows at once.
        """
        if self._left == 0:
            return None
        self._left -= 1
        return self._why
