"""What the live table shows: the order, a filter, one domain; and the keys that change it.  Pure."""

from dataclasses import dataclass
from enum import Enum

from services.tools.tap.state import BusStatus, DomainStatus

HELP = (
    ("s", "sort: worst first, by name, by latency, by limit"),
    ("/", "filter by name or policy; Enter keeps it, Escape removes it"),
    ("n, p, arrows", "show one domain: the next, the one before"),
    ("Escape", "show all domains again"),
    ("space", "pause; of a recording, stop and go on"),
    ("+, -", "play a recording faster or slower"),
    ("?", "this help"),
    ("q", "quit"),
)
HINT = "q quits, ? helps"
_SPEEDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0)


class Order(Enum):
    """The order of domains."""

    WORST = "worst first"
    NAME = "by name"
    STRESS = "by latency"
    LIMIT = "by limit"


@dataclass
class LiveView:
    """How a person looks at the table."""

    order: Order = Order.WORST
    filter: str = ""
    typing: bool = False
    """Whether keys are letters of the filter."""
    domain: str | None = None
    """The only one that is shown."""
    help: bool = False
    paused: bool = False
    quit: bool = False
    speed: float = 1.0

    def press(self, key: str, status: BusStatus, now: float = 0.0) -> None:
        """Take a key at ``now``: a character, or ``up``, ``down``, ``enter``, ``escape``, ``backspace``."""
        if self.typing:
            if key == "backspace":
                self.filter = self.filter[:-1]
            elif len(key) == 1 and key.isprintable():
                self.filter += key
            self.filter = "" if key == "escape" else self.filter
            self.typing = key not in ("enter", "escape")
            return
        if key in ("n", "p", "up", "down"):
            self._step(1 if key in ("n", "down") else -1, status, now)
        elif key == "escape":
            self.domain, self.filter, self.help = None, "", False
        elif key == "s":
            orders = list(Order)
            self.order = orders[(orders.index(self.order) + 1) % len(orders)]
        elif key in ("+", "-"):
            at = _SPEEDS.index(self.speed) + (1 if key == "+" else -1)
            self.speed = _SPEEDS[min(max(at, 0), len(_SPEEDS) - 1)]
        self.typing = key == "/"
        self.help ^= key == "?"
        self.paused ^= key == " "
        self.quit |= key == "q"

    def _step(self, by: int, status: BusStatus, now: float) -> None:
        names = [one.name for one in self._sort(status, now)]
        if names:
            at = names.index(self.domain) + by if self.domain in names else 0 if by > 0 else -1
            self.domain = names[at % len(names)]

    def select(self, status: BusStatus, now: float = 0.0) -> list[DomainStatus]:
        """Select and sort the domains to show at ``now``, seconds by this process's clock."""
        found = self._sort(status, now)
        if self.domain is not None:
            return [one for one in found if one.name == self.domain]
        return found

    def _sort(self, status: BusStatus, now: float) -> list[DomainStatus]:
        wanted = self.filter.casefold()
        found = [
            one
            for one in status.sort_worst_first(now)
            if wanted in f"{one.name} {one.decision.policy if one.decision else ''}".casefold()
        ]
        if self.order is Order.NAME:
            found.sort(key=lambda one: one.name)
        elif self.order is Order.STRESS:
            found.sort(key=lambda one: -(one.decision.stress or 0.0) if one.decision else 1.0)
        elif self.order is Order.LIMIT:
            found.sort(key=lambda one: -one.limit if one.limit is not None else 1)
        return found

    def describe(self) -> str:
        """Describe what differs from the beginning, for the last line."""
        parts = [] if self.order is Order.WORST else [self.order.value]
        if self.typing or self.filter:
            parts.append(f"filter /{self.filter}{'_' if self.typing else ''}")
        if self.paused:
            parts.append("paused")
        if self.speed != 1:
            parts.append(f"{self.speed:g} times as fast")
        return ", ".join([*parts, HINT])
