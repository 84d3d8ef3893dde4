"""Prints what outages do with and without the closed loop: ``python -m tests.closed_loop``."""

import logging
import sys

import structlog

from tests.closed_loop.outages import AT, OUTAGES, Outcome, run_outage

_SEEDS = range(1, 6)


def main() -> None:
    """Run each policy through each outage, several times, and print the worst of each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    _print("| policy | outage | loop | largest rise at once | worst latency afterwards, of the SLO | bad seconds |")
    _print("|---|---|---|---|---|---|")
    for policy, begins in AT.items():
        quiet = [run_outage(policy, None, seed=seed) for seed in _SEEDS]
        _print(_row(policy, "none", "closed", quiet, begins))
        for outage, seconds in OUTAGES.items():
            for closed in (False, True):
                runs = [run_outage(policy, outage, closed=closed, seed=seed) for seed in _SEEDS]
                _print(_row(policy, outage, "closed" if closed else "open", runs, begins + seconds))


def _row(policy: str, outage: str, loop: str, runs: list[Outcome], since: float) -> str:
    figures = [run.since(since) for run in runs]
    bad, worst, rise = (max(one[place] for one in figures) for place in range(3))
    latency = "packets lost" if worst == float("inf") else f"{worst:.1f}"
    return f"| {policy} | {outage} | {loop} | {rise / 1000:.1f}M | {latency} | {bad} |"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
