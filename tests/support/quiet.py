"""A test that measures real packets runs alone: no other test of the run is under way meanwhile.

Two locks on files that all workers of a run share.  Every test holds ``shared``: together with others, or
alone.  Whoever wants to be alone takes ``turn`` first, which all others pass through, so that it is not kept
waiting for ever.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the run's lock while the context lasts, alone or with others; waits for it."""
    with (folder / "turn.lock").open("w") as turnstile, (folder / "shared.lock").open("w") as shared:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(shared, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield
