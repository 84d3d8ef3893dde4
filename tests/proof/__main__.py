"""Prints the proofs and their domains: ``python -m tests.proof``, or ``make prove``."""

import inspect
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import structlog

from services.control import shield
from tests.closed_loop.conformance import find_breach
from tests.proof import liveness, loop
from tests.proof.claims import CLAIMS
from tests.proof.enumeration import check_all
from tests.proof.fences import Admits, Overtaken, explore
from tests.proof.mutants import FUNCTIONS, find_killer, mutants
from tests.proof.sharing import check_share
from tests.proof.solver import prove_all


def main() -> int:
    """Prove everything; return the exit code."""
    began = time.monotonic()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print_line("The shield, by z3: for all integers, on the syntax tree of services/control/shield.py")
    texts = {claim.__name__: (claim.__doc__ or "").partition("\n")[0] for claim in CLAIMS}
    for name in prove_all(shield):
        print_line(f"  proven   {name.replace('_', ' '):42} {texts.get(name, '')}")
    count = check_all(shield, 4)
    print_line(f"\nThe shield, by enumeration: the shipped function in {count:,} situations")
    print_line(
        "  every order of min, fail_safe and max up to 4 kbit/s, 4 sets of gains, every limit, every proposal from"
    )
    print_line(f"  min - 2 to max + 2, in 96 moments: each of the {len(CLAIMS)} claims holds in each of them")
    count = sum(check_share(targets) for targets in (1, 2, 3))
    print_line(f"\nThe division of a budget: {count:,} divisions over 1 to 3 targets: within bounds, adding up, fair")
    print_line(
        f"\nThe fences: {explore(3):,} states, every order of events over 3 samples, 2 decision replicas, 2 actuators,"
    )
    print_line(
        "  with duplicates, reordering, restarts and a wiped bus: nothing older comes into force, nothing is locked out"
    )
    survivors = _try_weaker_fences()
    print_line(
        f"\nThe closed loop: {loop.explore():,} states, every order of outages, returns, restarts and second actuators,"
    )
    print_line(
        "  by the shipped shield and the actuator's rise bound: rises start from what is in force, nothing leaps"
    )
    for name, (start, bounded) in loop.WEAKER.items():
        survivors += _expect_failure(name, loop.Broken, partial(loop.explore, start, bounded=bounded))
    traces: list[tuple[liveness.World, tuple[liveness.Event, ...]]] = []
    count = liveness.explore(visit=lambda world, trace: traces.append((world, trace)))
    print_line(
        f"\nThe fail-safe's liveness: {count:,} states of two actuators: right, safe or reported within T of each event"
    )
    for name, rules in liveness.WEAKER.items():
        survivors += _expect_failure(name, liveness.Promise, partial(liveness.explore, rules))
    breaches = [breach for world, trace in traces if (breach := find_breach(world, trace)) is not None]
    print_line(f"  the real reconcilers, driven through a trace to each: {len(breaches)} differ")
    for breach in breaches:
        print_line(f"  DIFFERS: {breach}")
    survivors += len(breaches) + _try_mutants()
    print_line(f"\n{time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def _try_weaker_fences() -> int:
    survivors = 0
    weaker: dict[str, Admits] = {
        "no fence": lambda _held, _decision: True,
        "a fence on epoch and sequence only": lambda held, new: held is None or (new.epoch, new.seq) > held[1:],
        "a fence that admits the same sample again": lambda held, new: held is None or new.end >= held[0],
    }
    for name, admits in weaker.items():
        survivors += _expect_failure(name, Overtaken, partial(explore, 3, admits))
    return survivors


def _expect_failure(name: str, error: type[AssertionError], check: Callable[[], object]) -> int:
    try:
        check()
    except error as found:
        print_line(f"  with {name}, as it should, it fails: {str(found)[:60]}")
        return 0
    print_line(f"  NOT NOTICED: {name}")
    return 1


def _try_mutants() -> int:
    found = Counter[str]()
    survivors = []
    for mutant in mutants(inspect.getsource(shield)):
        by = find_killer(mutant)
        found[by or ""] += 1
        if by is None:
            survivors.append(mutant.where)
    total = sum(found.values())
    print_line(f"\nMutants of {', '.join(FUNCTIONS)}: {total - len(survivors)} of {total} make a proof fail")
    for by, count in found.most_common():
        print_line(f"  {count:4} by {by.replace('_', ' ')}" if by else f"  {count:4} NOT NOTICED")
    for where in survivors:
        print_line(f"  survives: {where}")
    return len(survivors)


def print_line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
