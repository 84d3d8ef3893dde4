"""Times work on a shared machine."""

import time
from collections.abc import Callable
from statistics import median


def measure_seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of one call of ``work``, seconds: the median of ``rounds`` calls."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return median(took)
