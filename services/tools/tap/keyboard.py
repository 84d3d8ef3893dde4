"""The keys that a person presses, where there is a terminal to read them from."""

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NAMES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "down",
    "\x1b[D": "up",
    "\r": "enter",
    "\n": "enter",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\x08": "backspace",
}
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
"""What a terminal sends for a key that is no character (ECMA-48)."""
_MOST = 256


@contextmanager
def watch_keys(handle: Callable[[str], None]) -> Iterator[bool]:
    """Pass each key to ``handle`` while the context lasts; gives whether there is a terminal.

    Ctrl-C still interrupts.
    """
    if not sys.stdin.isatty():
        yield False
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in parse_keys(os.read(descriptor, _MOST).decode(errors="replace")):
            handle(key)

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def parse_keys(text: str) -> Iterator[str]:
    """Split what a terminal sent into keys: a character, or a name such as ``up``; a key without a name is left out."""
    while text:
        sequence = _SEQUENCE.match(text)
        key = sequence[0] if sequence else text[0]
        # In application mode, arrows begin with O in place of [.
        name = _NAMES.get(key.replace("\x1bO", "\x1b["))
        if name or not sequence:
            yield name or key
        text = text[len(key) :]
