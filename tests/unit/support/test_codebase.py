"""The code base stays easy to read: its measures stay within their limits."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.codebase.measures import LIMITS, measure
from tests.codebase.path_trace import trace
from tests.codebase.source import (
    classes_in_several_modules,
    functions_named_by_participle,
    functions_with_one_caller,
    functions_with_one_reference,
    names_of_private_words,
    read_modules,
)
from tests.codebase.traced_service import Recorder

CEILINGS: dict[str, float] = LIMITS | {
    "functions named by a participle": 0.02,
    "class names in several modules": 10,
    "functions over 60 lines": 0,
    "files over 400 lines": 0,
}
"""How far a measure that is beyond its limit may go: these numbers only go down, unless a decision does more."""

EXAMPLE = """
class _Line:
    @property
    def ended(self) -> bool:
        return self._is_over() or self._is_over()

    def _is_over(self) -> bool:
        return _called_once(self)

def _called_once(line) -> bool: ...

def _passed_on(line) -> bool: ...

CALLBACKS = {"line": _passed_on}

def sent_between() -> int: ...

def read_header(seed, is_told) -> None: ...
"""


@pytest.mark.long
def test_the_tree_keeps_its_limits() -> None:
    """It also traces the path from a measurement to its patch."""
    figures = measure(asyncio.run(trace())).figures()
    beyond = {name: (figures[name], most) for name, most in CEILINGS.items() if figures[name] > most}
    assert not beyond, "measured, and allowed at the most; python -m tests.codebase --list names what counts"


def test_names_are_made_of_the_fields_words() -> None:
    """No name in the product contains a word that only this project would understand."""
    assert not names_of_private_words(read_modules()), "say notify, report, publish, lease, observed, desired …"


def test_what_counts(tmp_path: Path) -> None:
    """One caller means one reference in the module, by a call.  A participle counts at the beginning of a name."""
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "example.py").write_text(EXAMPLE, encoding="utf-8")
    (folder / "other.py").write_text("class Line: ...\n", encoding="utf-8")
    (tmp_path / "schemas").mkdir()
    modules = read_modules(tmp_path)
    assert [one.name for one in functions_with_one_caller(modules)] == ["_called_once"]
    assert [one.name for one in functions_with_one_reference(modules)] == ["_called_once", "_passed_on"]
    assert [one.name for one in functions_named_by_participle(modules)] == [
        "_called_once",
        "_passed_on",
        "sent_between",
    ]
    assert names_of_private_words(modules) == ["services/example.py: is_told"]
    assert classes_in_several_modules(modules) == {"Line": ["services/example.py", "services/other.py"]}


async def _wait(rounds: int) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


async def _start_and_wait() -> None:
    await _wait(3)


def test_the_trace_leaves_out_coroutines_that_only_wait_for_others() -> None:
    """One counts where it runs code of its own: when it begins, and when what it waited for has ended."""
    recorder = Recorder((__file__,))
    before = sys.getprofile()
    sys.setprofile(recorder)
    try:
        asyncio.run(_start_and_wait())
    finally:
        sys.setprofile(before)
    entries = {(code.co_name, task): len(times) for (code, task), times in recorder.calls.items()}
    assert entries == {("_wait", "_start_and_wait"): 4, ("_start_and_wait", "_start_and_wait"): 2}
