"""How long work takes on a machine that others use, too."""

import time
from collections.abc import Callable
from statistics import median


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of one round of ``work``: the median of ``rounds``."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return median(took)
