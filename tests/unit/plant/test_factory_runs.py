"""What ``sluice factory`` plays, and what it says when it cannot."""

import os

import pytest
import yaml
from click.testing import CliRunner

from services.plant.commands.factory import CANNOT, command
from services.plant.commands.factory_runs import Options
from services.plant.harness.prometheus import configuration, queried
from services.plant.real.namespaces import PROGRAMS, find_missing


def test_who_plays() -> None:
    """Nobody first, then every policy by scraping, the one in question last; by Prometheus that one only."""
    titles = [one.title for one in Options(policy="aimd", against=("static", "aimd")).contenders()]
    assert titles == ["no control", "static, scrape", "aimd, scrape", "aimd, prometheus"]
    assert [one.title for one in Options(runs=("scrape",)).contenders()] == ["proportional, scrape", "learned, scrape"]


def test_the_scenario_fits_the_bottleneck() -> None:
    """Half of the capacity is half of every load; another length moves the events with it."""
    played = Options(capacity=50_000, seconds=30.0).played()
    assert played.apps.capacity == 50_000
    assert [one.load for one in played.apps.critical] == [1_000, 12_500]
    assert [event.at for event in played.events] == [10.0, 20.0]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, and without programs, each is named; exit code 2 and no traceback."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = find_missing(["iperf3"])
    assert missing[0].startswith("root")
    assert missing[1:] == [f"the program {name}" for name in (*PROGRAMS, "iperf3")]
    done = CliRunner().invoke(command, [])
    assert done.exit_code == CANNOT
    assert "the program prometheus" in done.output
    assert "the program prometheus" not in CliRunner().invoke(command, ["--runs", "scrape"]).output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--capacity", "fast"], "'fast' is not a rate"),
        (["--fifo", "0"], "'0' is not a duration"),
        (["--runs", "none", "--record", "x"], "no bus to record"),
        (["--json", "/nonexistent/result.json"], "there is no folder /nonexistent"),
        (["--json", "/"], "is a directory"),
    ],
)
def test_bad_options_are_explained(arguments: list[str], what: str) -> None:
    """The message names the value and what is expected."""
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert what in done.output


def test_prometheus_scrapes_the_page_and_the_signal_fits() -> None:
    """One job for the page, every second; the signal's window holds the four scrapes that a rate needs."""
    tree = yaml.safe_load(configuration("http://127.0.0.1:4321/metrics"))
    assert tree["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:4321"]}]
    assert tree["scrape_configs"][0]["metrics_path"] == "/metrics"
    signal = queried("http://127.0.0.1:9090")
    assert signal.window == 4 * signal.prometheus.scrape_interval
