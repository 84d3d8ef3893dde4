"""What the keys of the live table change, and how a terminal sends them."""

import pytest

from schemas.messages import Decision
from services.tools.common.formatting import decode_message
from services.tools.tap.keyboard import parse_keys
from services.tools.tap.state import BusStatus
from services.tools.tap.view import LiveView, Order
from tests.support.bus_stream import config, stream


@pytest.fixture
def status() -> BusStatus:
    """Four domains with decisions."""
    of = config(4)
    found = BusStatus(of.domains)
    for line in stream(of, 30):
        found.add(line.kind, decode_message(line), 0.0)
    return found


def press(status: BusStatus, *keys: str) -> tuple[LiveView, list[str]]:
    """The view after keys, and the domains that it shows."""
    view = LiveView()
    for key in keys:
        view.press(key, status)
    return view, [one.name for one in view.select(status)]


def test_sorting(status: BusStatus) -> None:
    """By name, latency and limit, and back to the worst first."""
    worst = press(status)[1]
    assert press(status, "s")[1] == sorted(worst)

    def decisions(names: list[str]) -> list[Decision]:
        return [one for name in names if (one := status.domains[name].decision) is not None]

    stress = [one.stress or 0.0 for one in decisions(press(status, "s", "s")[1])]
    assert stress == sorted(stress, reverse=True)
    limits = [sum(target.limit for target in one.targets) for one in decisions(press(status, "s", "s", "s")[1])]
    assert limits == sorted(limits, reverse=True)
    view, shown = press(status, *"ssss")
    assert (view.order, shown) == (Order.WORST, worst)


def test_filtering(status: BusStatus) -> None:
    """Letters are the filter's while it is typed; the keys' meanings return with Enter, all domains with Escape."""
    view, shown = press(status, "/", *"CELL-2q", "backspace", "enter")
    assert shown == ["cell-2"]
    assert not view.quit
    assert "filter /CELL-2" in view.describe()
    assert len(press(status, "/", *"cell-2", "enter", "escape")[1]) == 4
    assert press(status, "/", *"nothing", "enter")[1] == []
    assert len(press(status, "/", *"proportional", "enter")[1]) == 4


def test_one_domain(status: BusStatus) -> None:
    """Next and previous go round; Escape shows all again."""
    every = press(status)[1]
    assert press(status, "n")[1] == every[:1]
    assert press(status, "n", "down")[1] == every[1:2]
    assert press(status, "p")[1] == every[-1:]
    assert press(status, "p", "n")[1] == every[:1]
    assert press(status, "n", "escape")[1] == every


def test_help_pause_speed_and_quit(status: BusStatus) -> None:
    """Each key switches; speeds stay within their range."""
    assert press(status, "?")[0].help
    assert not press(status, "?", "?")[0].help
    assert press(status, " ")[0].paused
    assert press(status, "q")[0].quit
    assert press(status, *"+" * 50)[0].speed == 100
    assert press(status, *"-" * 50)[0].speed == 0.25


def test_what_a_terminal_sends() -> None:
    """Arrows are sequences, and an Escape alone is one key."""
    assert list(parse_keys("a\x1b[A\x1b[Bq\x1b")) == ["a", "up", "down", "q", "escape"]
    assert list(parse_keys("\r\x7f\x08")) == ["enter", "backspace", "backspace"]
    # Delete, F1, Page down and a Shift with an arrow mean nothing here; above all, none of them is an Escape.
    assert list(parse_keys("\x1b[3~\x1bOP\x1b[6~\x1b[1;2Aq")) == ["q"]
    assert list(parse_keys("\x1bOA\x1bOB")) == ["up", "down"]
