"""The table of services at their worst inputs: limits of the manifests, a fabricated node, and misses."""

from pathlib import Path

import pytest

from services.bench.worst import table
from services.bench.worst.manifest_limits import read_limits
from services.bench.worst.services import write_network
from services.bench.worst.table import MEASURES, measure_worst
from services.meter.host_network import HostNetwork
from services.runtime.exit_codes import CommandFailure, ExitCode


def test_every_measured_service_has_a_limit_in_the_manifests() -> None:
    """None is measured against a number of the bench's own."""
    limits = read_limits()
    assert set(limits) == set(MEASURES)
    assert limits["sampler"] == limits["decision"] == 64


def test_manifests_that_are_missing_are_named(tmp_path: Path) -> None:
    """An installed package has none."""
    with pytest.raises(CommandFailure, match=r"ml_controller_deployment\.yaml"):
        read_limits(tmp_path)


def test_the_meter_reads_the_fabricated_node(tmp_path: Path) -> None:
    """Each address has a device of its own with counters."""
    write_network(tmp_path, ["10.0.0.1", "10.0.0.2"])
    network = HostNetwork(tmp_path)
    assert network.read_routes() == {"10.0.0.1": "lxc0", "10.0.0.2": "lxc1"}
    assert network.read_counters()["lxc1"].sent == 1
    network.close()


@pytest.mark.parametrize(("peak", "is_over"), [(31.9, False), (None, False), (48.1, True)])
def test_a_service_above_its_limit_ends_the_command_with_a_finding(
    peak: float | None, *, is_over: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not measured is said, and is none."""

    def measure() -> float | None:
        """Many Pods."""
        return peak

    monkeypatch.setitem(table.MEASURES, "meter", (measure,))
    if is_over:
        with pytest.raises(CommandFailure, match="meter") as failure:
            measure_worst(("meter",), None)
        assert failure.value.exit_code == ExitCode.FINDING
    else:
        measure_worst(("meter",), None)
    assert ("not measured" in capsys.readouterr().out) is (peak is None)


def test_an_unknown_service_is_refused() -> None:
    """Before anything is measured."""
    with pytest.raises(CommandFailure, match="relay"):
        measure_worst(("relay",), None)
