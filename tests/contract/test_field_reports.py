"""The documentation of field reports names the tests of each one, and how many inputs they try."""

import ast
import importlib
import re
from functools import cache
from math import prod
from pathlib import Path
from types import FunctionType

import pytest

from tests.support.readme import ROOT

PAGE = ROOT / "docs" / "field-reports.md"
REPORTS = [*(f"S{number}" for number in range(1, 17)), *(f"C{number}" for number in range(1, 15))]
FEWEST = 5
SOURCES = ["scrape", "prometheus"]


def find_rows(heading: str) -> dict[str, list[str]]:
    """The cells of a section's table, by the first."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in rows}


@cache
def find_files() -> dict[tuple[str, str], list[Path]]:
    """The files that have a test function, by their stem and its name."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault((path.stem, node.name), []).append(path)
    return found


def count_inputs(path: Path, name: str) -> int:
    """How many inputs a test is run with."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    function = getattr(module, name)
    assert isinstance(function, FunctionType)
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    # The two sources are no two inputs.
    return prod(len(values) for mark in marks if (values := list(mark.args[1])) != SOURCES)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The table of tests."""
    return find_rows("The tests of each report")


def test_every_report_is_in_both_tables(rows: dict[str, list[str]]) -> None:
    """With its kind, what is tried, and what is right."""
    assert list(rows) == REPORTS
    described = find_rows("Signals") | find_rows("Cluster")
    for report in REPORTS:
        assert all(described[report][:3]), report


@pytest.mark.parametrize("report", REPORTS)
def test_a_report_has_tests_of_its_whole_kind(report: str, rows: dict[str, list[str]]) -> None:
    """Each test exists, tries as many inputs as the table says, and all together try five at least."""
    tests, together = rows[report]
    files, total = find_files(), 0
    found = re.findall(r"`(test_\w+)::(test_\w+)`(?: (\d+))?", tests)
    assert found
    for stem, name, count in found:
        (path,) = files[stem, name]
        if count:
            assert (name, count_inputs(path, name)) == (name, int(count))
            total += int(count)
    assert total == int(together) >= FEWEST
