"""A test that measures real packets runs alone: no other test of the run is active meanwhile.

The workers of a run share two file locks.  Every test holds ``shared``, together with others or alone.  A test that
must run alone takes ``turn`` first.  All others also pass through ``turn``, so that it does not starve.
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
