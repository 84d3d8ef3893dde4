"""The runs that ``sluice factory`` plans, and its errors."""

import os

import pytest
import yaml
from click.testing import CliRunner

from services.plant.commands.factory import command
from services.plant.commands.factory_runs import FactoryOptions
from services.plant.harness.pipeline import build_prometheus_config, build_prometheus_signal
from services.plant.real.namespaces import PROGRAMS, find_missing
from services.runtime.exit_codes import ExitCode


def test_runs_are_planned_in_order() -> None:
    """No control; then every policy by scraping, the one under test last; by Prometheus that one only."""
    titles = [one.title for one in FactoryOptions(policy="aimd", against=("static", "aimd")).plan_runs()]
    assert titles == ["no control", "static, scrape", "aimd, scrape", "aimd, no-meter", "aimd, prometheus"]
    titles = [one.title for one in FactoryOptions(runs=("scrape",)).plan_runs()]
    assert titles == ["proportional, scrape", "learned, scrape"]


def test_the_scenario_fits_the_bottleneck() -> None:
    """Half the capacity halves every load; another length moves the events."""
    played = FactoryOptions(capacity=50_000, seconds=30.0).build_scenario()
    assert played.apps.capacity == 50_000
    assert [one.load for one in played.apps.critical] == [1_000, 12_500]
    assert [event.at for event in played.events] == [10.0, 20.0]


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, and without programs, each is named; exit code 2 and no traceback."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = find_missing(["iperf3"])
    assert missing[0].startswith("root")
    assert missing[1:] == [f"the program {name}" for name in (*PROGRAMS, "iperf3")]
    done = CliRunner().invoke(command, [])
    assert done.exit_code == ExitCode.USAGE
    assert "the program prometheus" in done.output
    assert "the program prometheus" not in CliRunner().invoke(command, ["--runs", "scrape"]).output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--capacity", "fast"], "'fast' is not a rate"),
        (["--fifo", "0"], "'0' is not a duration"),
        (["--runs", "none", "--record", "x"], "--record needs a run under a policy"),
    ],
)
def test_bad_options_are_explained(arguments: list[str], what: str) -> None:
    """The message names the value and what is expected."""
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == ExitCode.USAGE
    assert what in done.output


@pytest.mark.parametrize(
    ("path", "what"), [("/nonexistent/result.json", "there is no folder /nonexistent"), ("/", "is a directory")]
)
def test_results_that_cannot_be_written_end_the_command_before_its_work(path: str, what: str) -> None:
    """The exit code is that of every output that cannot be written."""
    done = CliRunner().invoke(command, ["--json", path])
    assert done.exit_code == ExitCode.UNREADABLE
    assert what in done.output


def test_prometheus_scrapes_the_page_and_the_signal_fits() -> None:
    """One job for the page, every second; the signal's window holds the four scrapes that a rate needs."""
    pages = ["http://127.0.0.1:4321/metrics", "http://10.78.0.2:9965/metrics"]
    jobs = yaml.safe_load(build_prometheus_config(pages))["scrape_configs"]
    assert [one["static_configs"] for one in jobs] == [
        [{"targets": ["127.0.0.1:4321"]}],
        [{"targets": ["10.78.0.2:9965"]}],
    ]
    assert {one["metrics_path"] for one in jobs} == {"/metrics"}
    assert len({one["job_name"] for one in jobs}) == 2
    signal = build_prometheus_signal("http://127.0.0.1:9090")
    assert signal.window == 4 * signal.prometheus.scrape_interval


def test_a_fault_begins_after_half_of_the_time() -> None:
    """It is an event like others, and begins no phase: the oracle does not know of it."""
    plain, faulty = FactoryOptions(seconds=30.0), FactoryOptions(seconds=30.0, fault="off")
    known = plain.build_scenario().events
    added = [one for one in faulty.build_scenario().events if one not in known]
    assert [(one.at, one.enforcement) for one in added] == [(15.0, "off")]
    assert faulty.build_scenario().phases() == plain.build_scenario().phases()
