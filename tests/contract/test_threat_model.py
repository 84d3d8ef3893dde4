"""The threat model names a test for each of its cells, and every one of them exists."""

import ast
import re

from tests.support.kube.manifests import BUS_USERS
from tests.support.readme import ROOT

PAGE = ROOT / "docs" / "SECURITY.md"
OUTSIDE = {"the API server itself"}
"""Parties that nothing limits."""


def find_rows() -> list[list[str]]:
    """The cells of the table, row by row."""
    section = PAGE.read_text(encoding="utf-8").partition("## Threat model")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines[0] == "| who | at most | what limits it | tests |"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def find_tests() -> set[str]:
    """Names of all test functions, and of the state machines that pytest collects."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.add(node.targets[0].id)
    return found


def test_every_cell_has_its_tests() -> None:
    """Each party has a test, except whoever can do everything; each named test exists."""
    rows, known = find_rows(), find_tests()
    assert len(rows) > 20
    for who, _, limits, tests in rows:
        named = re.findall(r"`(\w+)`", tests)
        assert named or who in OUTSIDE, who
        assert limits, who
        assert [name for name in named if name not in known] == [], who


def test_every_user_of_the_bus_is_a_party() -> None:
    """And so is each place that an attacker can reach."""
    parties = " ".join(who for who, *_ in find_rows())
    for party in (*(f"bus user `{user}`" for user in BUS_USERS), "Relay", "Prometheus", "API server's answers"):
        assert party in parties
    for party in (
        "a pod on the network",
        "stranger's recording",
        "a name in the cluster",
        "a person with a bus password",
    ):
        assert party in parties
