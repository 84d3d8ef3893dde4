"""Checks each claim on the shipped function itself, for every situation of a small grid."""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from schemas.messages import ShieldMemory
from tests.proof.claims import CLAIMS, SECOND, Case, Logic, assume

_QUARTER = SECOND // 4
_END = 100 * SECOND
_BLIND = ((False, True, True), (True, True, True))


class Numbers(Logic):
    """Logic over plain values."""

    def all(self, *parts: Any) -> Any:
        """Every part holds."""
        return all(parts)

    def any(self, *parts: Any) -> Any:
        """Some part holds."""
        return any(parts)

    def no(self, part: Any) -> Any:
        """It does not hold."""
        return not part

    def min(self, one: Any, two: Any) -> Any:
        """The smaller."""
        return min(one, two)

    def max(self, one: Any, two: Any) -> Any:
        """The larger."""
        return max(one, two)

    def rule(self, name: str) -> Any:
        """The rule's name."""
        return name


class Broken(AssertionError):
    """A situation in which a claim does not hold."""


def cases(shield: ModuleType, highest: int) -> Iterator[Case]:
    """Every situation with limits up to ``highest`` kbit/s."""
    logic = Numbers()

    def variant(inputs: Any, violated: bool, no_data: bool) -> Any:
        return replace(inputs, violated=violated, no_data=no_data)

    for limits in _limits(shield, highest):
        for memory, inputs in itertools.product(_memories(limits), _inputs(shield)):
            for proposal in range(limits.min - 2, limits.max + 3):
                for in_force, unsettled in _reports(limits, memory, proposal):
                    yield Case(
                        logic=logic,
                        shield=shield.shield,
                        start_from=shield.start_from,
                        limits=limits,
                        decided=memory,
                        in_force=in_force,
                        unsettled=unsettled,
                        inputs=inputs,
                        proposal=proposal,
                        other=proposal + 1,
                        variant=variant,
                    )


def _limits(shield: ModuleType, highest: int) -> Iterator[Any]:
    for least, safe, most in itertools.combinations_with_replacement(range(1, highest + 1), 3):
        for rise, deadband, cut, decay in ((1, 1, 500, 1), (2, 1, 950, 4), (4, 2, 500, 4), (4, 3, 250, 2)):
            yield shield.Limits(least, most, safe, rise, deadband, cut, decay * _QUARTER)


def _memories(limits: Any) -> Iterator[ShieldMemory]:
    for limit in range(limits.min, limits.max + 1):
        for waited, cut_until in itertools.product((0, 1, 2, 5), (0, _END - 2 * _QUARTER)):
            yield ShieldMemory(limit, _END - waited * _QUARTER, cut_until)
        # Cuts that may be taken back: one that shows by now, and one that does not show yet.
        for waited, cut_until in ((0, _END - 2 * _QUARTER), (2, _END - 2 * _QUARTER), (4, _END), (1, _END + _QUARTER)):
            yield ShieldMemory(limit, _END - waited * _QUARTER, cut_until, 0, min(limit + 1 + waited % 2, limits.max))


def _reports(limits: Any, memory: ShieldMemory, turn: int) -> Iterator[tuple[int, bool]]:
    """In force as decided; and in turn on a part only, lower, and higher, some of them outside of the bounds."""
    yield memory.limit, False
    yield ((memory.limit, True), (memory.limit - 1, False), (limits.max + 1, False))[(turn + memory.limit) % 3]


def _inputs(shield: ModuleType) -> Iterator[Any]:
    for start, elapsed in ((2, 1), (3, 0), (4, 3)):
        # Without data it is not known whether there is a queue.
        for violated, no_data, queued in (*itertools.product((False, True), (False,), (False, True)), *_BLIND):
            yield shield.ShieldInput(
                _END, _END - start * _QUARTER, _QUARTER, elapsed * _QUARTER, violated, no_data, queued
            )


def check_all(shield: ModuleType, highest: int) -> int:
    """Check every claim in every situation; gives how many situations there were.

    Raises:
        Broken: a claim does not hold.
    """
    count = 0
    for case in cases(shield, highest):
        count += 1
        assert assume(case)
        for claim in CLAIMS:
            if not claim(case):
                raise Broken(
                    f"{claim.__name__}: {case.limits} {case.decided} in force {case.in_force} {case.inputs} "
                    f"proposal {case.proposal} gave {case.out} ({case.rule}), {case.after}"
                )
    return count
