"""The reference pages in docs/ match the code."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[Path, Callable[[], str]] = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_up_to_date(path: Path) -> None:
    """``make schemas`` was run after the last change of the code."""
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run `make schemas`"
