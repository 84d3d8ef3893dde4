"""Interrupts a call that does not return: a foreign policy in an endless loop must not stop other domains.

The alarm of the process raises in the call, again and again until the call ends.  It reaches Python code and blocking
system calls.  It does not reach an extension's own loop, nor code that catches everything for ever: then the process
answers nobody, its liveness probe has it restarted, and the actuator's dead-man applies the fail-safe limits meanwhile.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_AGAIN_S = 0.05


class Interrupted(Exception):
    """The call took too long."""


class _Alarm(BaseException):
    """Raised in the call: not an ``Exception``, which the call may catch in its loop."""


@contextmanager
def interrupt_after(seconds: float, text: str) -> Iterator[None]:
    """Interrupt the block if it takes longer; outside of the main thread, which alone gets signals, do nothing.

    Raises:
        Interrupted: with this text, in place of the block's own end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    over = False

    def ring(*_: object) -> None:
        if not over:
            raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
        yield
        over = True
    except _Alarm:
        over = True
        raise Interrupted(text) from None
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
