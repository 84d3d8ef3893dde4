"""Named points at which a test kills the process, as a power failure would.

``SLUICE_CRASH_AT=decision.published:3`` kills the process when it reaches that point for the third time.
Without the variable a point costs one call of an empty function.
"""

import os
import signal
from collections.abc import Callable

VARIABLE = "SLUICE_CRASH_AT"


def arm(setting: str | None) -> Callable[[str], None]:
    """Build the function that a point calls: it does nothing, or kills this process on its turn.

    Raises:
        ValueError: the setting is not ``NAME:COUNT``.
    """
    if not setting:
        return lambda _: None
    name, colon, count = setting.partition(":")
    if not colon or not count.isdigit() or int(count) < 1:
        raise ValueError(f"{VARIABLE}={setting!r}: expected NAME:COUNT, such as decision.published:3")
    left = int(count)

    def point(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return point


point = arm(os.environ.get(VARIABLE))
