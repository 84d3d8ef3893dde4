"""A real Prometheus's past metrics as a recording, and the replay of it."""

import asyncio
import json
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from msgspec import structs

from schemas.messages import Sample, decode
from services.runtime.config_loader import load
from services.sampler.loop import build_sample
from services.sampler.prometheus.source import PrometheusSource
from services.sampler.workloads import Workloads
from services.tools.common.recording import RecordingReader
from tests.integration.sampler.test_equality import PAGES, START, S, open_metrics
from tests.integration.sampler.test_equality import Exporter as Past
from tests.support.commands import sluice
from tests.support.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

CONFIG = """
domains:
  - name: floor
    critical: [{workload: robot-control, namespace: factory}, {workload: safety-scanner, namespace: factory}]
    targets: [{deployment: telemetry-upload, namespace: factory, min: 1M, max: 100M, fail_safe: 10M}]
    min_observations: 20
signal: {source: prometheus, period: 1s, window: 5s}
"""
FIRST, LAST = START + 10, START + PAGES - 1


def when(second: int) -> str:
    """A time in the command line's notation."""
    return datetime.fromtimestamp(second, UTC).isoformat()


@pytest.fixture
def past(tmp_path: Path) -> str:
    """Five minutes of an exporter's life."""
    exporter = Past(1)
    return open_metrics([exporter.page(number) for number in range(PAGES)])


async def test_past_metrics_give_the_samples_of_that_time(tmp_path: Path, past: str) -> None:
    """Each recorded sample is what the sampler would have got at that time; the replay decides on all of them."""
    config, file = tmp_path / "sluice.yaml", tmp_path / "past.jsonl.zst"
    config.write_text(CONFIG)
    with PrometheusServer(tmp_path / "prometheus", past) as server:
        done = await asyncio.to_thread(
            sluice, "record", "--config", config, "--from-prometheus", server.url,
            "--start", when(FIRST), "--end", when(LAST), "--step", "1s", "-o", file,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        recorded = [decode(Sample, line.payload) for line in RecordingReader(file).read_messages()]
        assert [sample.end for sample in recorded] == [second * S for second in range(FIRST, LAST + 1)]
        live = load(config, {})
        signal = structs.replace(live.signal, prometheus=structs.replace(live.signal.prometheus, url=server.url))
        with closing(PrometheusSource(signal, Workloads.from_config(live))) as source:
            for sample in recorded[::29]:
                measured = await source.measure(sample.end)
                assert sample == build_sample(live.domains[0], signal, sample.end, measured)
    assert sum(one.critical[0].p95 is not None for one in recorded) > PAGES // 2
    done = await asyncio.to_thread(sluice, "replay", file, "--every-policy", "--json")
    assert done.returncode == 0, done.stderr
    variants = json.loads(done.stdout)["variants"]
    assert variants["proportional"]["floor"]["samples"] == len(recorded)
    assert variants["as recorded"]["floor"]["samples"] == 0


async def test_a_coarse_past_is_recorded_with_the_installed_configuration(tmp_path: Path) -> None:
    """The windows of a live signal are stretched to what the step allows, and the output says so.

    Only windows in which the exporter restarted are without data, from the third window of its life on.
    """
    config, file = tmp_path / "sluice.yaml", tmp_path / "past.jsonl.zst"
    config.write_text(CONFIG.replace("source: prometheus, period: 1s, window: 5s", "period: 500ms, window: 2s"))
    pages, restart, window = 2 * PAGES, 420, 60
    exporter = Past(1, restart_every=restart + 1)
    history = open_metrics([exporter.page(number) for number in range(pages)])
    with PrometheusServer(tmp_path / "prometheus", history) as server:
        done = await asyncio.to_thread(
            sluice, "record", "--config", config, "--from-prometheus", server.url,
            "--start", when(START + 3 * window + 5), "--end", when(START + pages - 1), "--step", "15s", "-o", file,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "windows of 1m instead of 2s, a dead-man time of 45s instead of 5s in floor" in done.stderr
    reader = RecordingReader(file)
    recorded = [decode(Sample, line.payload) for line in reader.read_messages()]
    assert {sample.end - sample.start for sample in recorded} == {window * S}
    assert {after.end - before.end for before, after in pairwise(recorded)} == {15 * S}
    without = [sample.end // S - START for sample in recorded if None in {one.p95 for one in sample.critical}]
    ends = [sample.end // S - START for sample in recorded]
    assert without == [end for end in ends if restart <= end < restart + window]
    assert len(without) == window // 15
    done = await asyncio.to_thread(sluice, "replay", file, "--policy", "learned", "--json")
    figures = json.loads(done.stdout)["variants"]["learned"]["floor"]
    assert (figures["samples"], figures["blind"]) == (len(recorded), len(without))


async def test_only_the_domains_that_are_asked_for(tmp_path: Path, past: str) -> None:
    """The samples are those of the domains that the header names."""
    config, file = tmp_path / "sluice.yaml", tmp_path / "past.jsonl.zst"
    second = CONFIG.partition("domains:\n")[2].partition("signal:")[0]
    second = second.replace("floor", "yard").replace("telemetry-upload", "backup")
    config.write_text(CONFIG.replace("signal:", f"{second}signal:"))
    with PrometheusServer(tmp_path / "prometheus", past) as server:
        done = await asyncio.to_thread(
            sluice, "record", "--config", config, "--from-prometheus", server.url, "--domain", "yard",
            "--start", when(FIRST), "--end", when(FIRST + 20), "-o", file,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reader = RecordingReader(file)
    assert [domain.name for domain in reader.header.domains] == ["yard"]
    assert {decode(Sample, line.payload).domain for line in reader.read_messages()} == {"yard"}
    assert [line.seq for line in reader.read_messages()] == list(range(1, 22))


async def test_a_histogram_that_does_not_exist_is_named(tmp_path: Path, past: str) -> None:
    """The samples without data are kept, and the command says which histogram has none."""
    config, file = tmp_path / "sluice.yaml", tmp_path / "past.jsonl.zst"
    config.write_text(CONFIG.replace("source: prometheus,", "source: prometheus, metric: nobody_writes_this_seconds,"))
    with PrometheusServer(tmp_path / "prometheus", past) as server:
        done = await asyncio.to_thread(
            sluice, "record", "--config", config, "--from-prometheus", server.url,
            "--start", when(FIRST), "--end", when(FIRST + 20), "-o", file,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"{server.url}: no sample has data from the histogram nobody_writes_this_seconds: " in done.stderr
    recorded = [decode(Sample, line.payload) for line in RecordingReader(file).read_messages()]
    assert len(recorded) == 21
    assert {one.p95 for sample in recorded for one in sample.critical} == {None}


def test_what_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    """No server or no start: a sentence, and no file."""
    config, file = tmp_path / "sluice.yaml", tmp_path / "past.jsonl.zst"
    config.write_text(CONFIG)
    ask = ("record", "--config", config, "--from-prometheus", "http://127.0.0.1:9", "-o", file)
    absent = sluice(*ask, "--start", when(FIRST), "--end", when(LAST))
    assert absent.returncode == 4
    assert "refused" in absent.stderr
    assert "needs --start" in sluice(*ask).stderr
    for more in (("--follow",), ("--for", "1m"), ("--from-seq", "3"), ("--to-seq", "3")):
        done = sluice(*ask, "--start", when(FIRST), *more)
        assert (done.returncode, "asks for the past" in done.stderr) == (2, True)
    assert sluice("record", "--config", config, "--step", "15s", "-o", file).returncode == 2
    assert not file.exists()
