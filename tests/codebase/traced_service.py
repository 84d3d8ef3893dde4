"""Runs a service and records every call of product code: ``python -m tests.codebase.traced_service CALLS …``.

The first argument names a file.  When the service ends, the calls are written to it as ``TIME FILE FUNCTION``, with
times in UTC ns.  The other arguments are those of ``sluice``.
"""

import sys
import threading
import time
from pathlib import Path
from types import CodeType, FrameType

from services.cli import main
from tests.codebase.source import PACKAGES, ROOT

_PREFIXES = tuple(f"{ROOT}/{package}/" for package in PACKAGES)
_calls: list[tuple[int, CodeType]] = []


def _record(frame: FrameType, event: str, _: object) -> None:
    if event == "call" and frame.f_code.co_filename.startswith(_PREFIXES):
        _calls.append((time.time_ns(), frame.f_code))


def _write(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for when, code in _calls:
            file.write(f"{when} {Path(code.co_filename).relative_to(ROOT).as_posix()} {code.co_qualname}\n")


if __name__ == "__main__":
    threading.setprofile(_record)
    sys.setprofile(_record)
    try:
        main(sys.argv[2:])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        _write(Path(sys.argv[1]))
