"""What tests of one kind tried, by name: one table at the end of a session, to which every process adds its part."""

from typing import Any, ClassVar, Generic, Protocol, TypeVar

from msgspec import convert, to_builtins


class Mergeable(Protocol):
    """A line of a table."""

    def merge(self, more: Any) -> None:
        """Add the results of another test."""


R = TypeVar("R", bound=Mergeable)


class TableOfTests(Generic[R]):
    """Collects the results of tests, a row for each name."""

    names: ClassVar[tuple[str, ...]]
    """Of all rows, in the order of the table."""
    row_type: ClassVar[type]

    def __init__(self) -> None:
        """Start empty."""
        self.rows: dict[str, R] = {}

    def count(self, name: str, row: R) -> None:
        """Add a test's results to its row."""
        assert name in self.names, name
        if name in self.rows:
            self.rows[name].merge(row)
        else:
            self.rows[name] = row

    def export(self) -> dict[str, Any]:
        """The results as plain values that a report can carry between processes."""
        found: dict[str, Any] = to_builtins(self.rows)
        return found

    def merge(self, exported: dict[str, Any]) -> None:
        """Add the exported results of another table."""
        for name, row in exported.items():
            self.count(name, convert(row, self.row_type))

    @property
    def missing(self) -> list[str]:
        """The names that no test has reported on."""
        return [name for name in self.names if name not in self.rows]
