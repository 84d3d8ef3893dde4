"""Runs a service and records the product code that runs: ``python -m tests.codebase.traced_service CALLS …``.

The first argument names a file.  When the service ends, it gets a line ``FILE FUNCTION TASK TIME ...`` per function
and task, with the times of all calls in UTC ns, and the task by the coroutine that it runs.  The other arguments are
those of ``sluice``.
"""

import dis
import functools
import inspect
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

from services.cli import main
from tests.codebase.source import PACKAGES, ROOT

_PREFIXES = tuple(f"{ROOT}/{package}/" for package in PACKAGES)
_YIELD, _RESUME = dis.opmap["YIELD_VALUE"], dis.opmap["RESUME"]


class _Entry:
    """A frame on a thread's stack, from its entry to its exit."""

    __slots__ = ("began", "calls", "forwards", "is_resumed", "task")

    def __init__(self, task: str, *, is_resumed: bool) -> None:
        self.began = time.time_ns()
        self.task = task
        self.is_resumed = is_resumed
        self.calls = 0
        self.forwards = False
        """Whether the last frame that this one called has yielded."""


class Recorder:
    """A profile function that keeps which code ran, when, and in which task.

    A coroutine that awaits another one is entered whenever that one continues, only to pass control on.  Such an
    entry runs no code of its own, and is not kept.
    """

    def __init__(self, prefixes: tuple[str, ...] = _PREFIXES) -> None:
        """Keep calls of code in files that begin with one of ``prefixes``."""
        self.calls: defaultdict[tuple[CodeType, str], list[int]] = defaultdict(list)
        """When each function was called in each task."""
        self._prefixes = prefixes
        self._local = threading.local()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Take an event of ``sys.setprofile``."""
        stack: list[_Entry] = self._local.__dict__.setdefault("stack", [])
        if event == "call":
            parent = stack[-1] if stack else None
            if parent is not None:
                parent.calls += 1
            caller, code = frame.f_back, frame.f_code
            is_task = caller is not None and caller.f_code.co_filename.endswith("asyncio/events.py")
            task = code.co_qualname if is_task else parent.task if parent is not None else "-"
            is_resumed = bool(code.co_flags & inspect.CO_COROUTINE) and frame.f_lasti > _first_instruction(code)
            stack.append(_Entry(task, is_resumed=is_resumed))
        elif event == "return" and stack:
            entry, code = stack.pop(), frame.f_code
            # Where a coroutine yields, Python 3.11 shows that instruction, and 3.13 the one at which it will go on.
            at = code.co_code[frame.f_lasti] if frame.f_lasti >= 0 else None
            has_yielded = at == _YIELD or (at == _RESUME and frame.f_lasti > _first_instruction(code))
            if stack:
                stack[-1].forwards = has_yielded
            only_forwards = entry.is_resumed and entry.calls == 1 and entry.forwards and has_yielded
            if code.co_filename.startswith(self._prefixes) and not only_forwards:
                self.calls[code, entry.task].append(entry.began)
        elif event == "c_call" and stack:
            stack[-1].calls += 1

    def write(self, path: Path) -> None:
        """Write what was recorded."""
        with path.open("w", encoding="utf-8") as file:
            for (code, task), times in self.calls.items():
                name = Path(code.co_filename).relative_to(ROOT).as_posix()
                file.write(f"{name} {code.co_qualname} {task} {' '.join(map(str, times))}\n")


@functools.cache
def _first_instruction(code: CodeType) -> int:
    """Offset of the instruction at which a coroutine is entered for the first time."""
    return next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")


if __name__ == "__main__":
    recorder = Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        main(sys.argv[2:])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        recorder.write(Path(sys.argv[1]))
