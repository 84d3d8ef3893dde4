"""Proves each claim over all integers, on the shipped source, with z3."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import z3

from schemas.messages import ShieldMemory
from tests.proof.claims import CLAIMS, Case, Logic, assume
from tests.proof.symbolic import RULES, Machine, Record, join, symbols


class Symbols(Logic):
    """Logic over z3's expressions."""

    def all(self, *parts: Any) -> Any:
        """Every part holds."""
        return z3.And(*parts)

    def any(self, *parts: Any) -> Any:
        """Some part holds."""
        return z3.Or(*parts)

    def no(self, part: Any) -> Any:
        """It does not hold."""
        return z3.Not(part)

    def min(self, one: Any, two: Any) -> Any:
        """The smaller."""
        return join(one < two, one, two)

    def max(self, one: Any, two: Any) -> Any:
        """The larger."""
        return join(one > two, one, two)

    def rule(self, name: str) -> Any:
        """The rule's number."""
        return RULES.index(name)


def situation(shield: ModuleType, source: str | None = None) -> tuple[Case, Machine]:
    """The shield's most general situation, with every input unknown."""
    machine = Machine(shield, source or inspect.getsource(shield))

    def variant(inputs: Record, violated: bool, no_data: bool) -> Record:
        return Record(inputs.fields | {"violated": z3.BoolVal(violated), "no_data": z3.BoolVal(no_data)})

    case = Case(
        Symbols(),
        lambda *inputs: machine.call("shield", *inputs),
        lambda *inputs: machine.call("start_from", *inputs),
        symbols(shield.Limits, "limits"),
        symbols(ShieldMemory, "decided"),
        z3.Int("in_force"),
        z3.Bool("unsettled"),
        symbols(shield.ShieldInput, "inputs"),
        z3.Int("proposal"),
        z3.Int("other"),
        variant,
    )
    return case, machine


class Unproven(AssertionError):
    """A claim that does not hold, or that z3 could not decide; the text holds the counterexample."""


def prove(case: Case, claim: Callable[[Case], Any], timeout_ms: int = 60_000) -> None:
    """Show that no values satisfy the assumptions and violate the claim.

    Raises:
        Unproven: some do, or the time ran out.
    """
    solver = z3.Solver()
    solver.set("timeout", timeout_ms)
    solver.add(assume(case), z3.Not(claim(case)))
    answer = solver.check()
    if answer == z3.sat:
        raise Unproven(f"{claim.__name__}: {solver.model()}")
    if answer != z3.unsat:
        raise Unproven(f"{claim.__name__}: {solver.reason_unknown()}")


def prove_all(shield: ModuleType, source: str | None = None, timeout_ms: int = 60_000) -> Iterator[str]:
    """Prove every claim; yield the name of each as it is proven.

    Raises:
        Unproven: one does not hold.
    """
    case, machine = situation(shield, source)
    for claim in CLAIMS:
        prove(case, claim, timeout_ms)
        yield claim.__name__
    divisors = list(machine.divisors)
    prove(case, lambda _: z3.And([one > 0 for one in divisors if not isinstance(one, int)]), timeout_ms)
    assert all(one > 0 for one in divisors if isinstance(one, int))
    yield "every divisor is above zero"
