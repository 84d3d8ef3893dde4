"""Options without an effect are refused, with exit code 2 and a sentence; none is ignored."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.cli import main
from services.runtime.exit_codes import ExitCode
from tests.support.bus_stream import config, record, stream

CONFIG = (
    "domains: [{name: cell-0, critical: [{workload: robot-control}], "
    "targets: [{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}]}]\n"
    'bus: {servers: ["nats://127.0.0.1:9"]}\n'
)


def run(command: str, folder: Path) -> Result:
    """Run a command line in which FILE, SAMPLES and CONFIG stand for a recording and a configuration."""
    file = record(folder / "run.jsonl.zst", config(), stream(config(), 20, actions=True))
    path = folder / "sluice.yaml"
    path.write_text(CONFIG)
    words = {"FILE": str(file), "CONFIG": str(path), "NEW": str(folder / "new.jsonl.zst"), "EMPTY": ""}
    return CliRunner().invoke(main, [words.get(word, word) for word in command.split()])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("replay FILE --speed 10", "--speed goes with --nats"),
        ("replay FILE --prefix x", "--prefix goes with --nats"),
        ("replay FILE --serve", "--serve goes with --nats"),
        ("replay FILE --nats nats://127.0.0.1:9 --serve --prefix x", "without --prefix"),
        ("replay FILE --nats nats://127.0.0.1:9 --every-policy", "without --nats"),
        ("replay FILE --every-policy --policy aimd", "without --policy"),
        ("replay FILE --policy nobody", "nobody"),
        ("record --config CONFIG --since 10m --until 20m", "is not after the beginning"),
        ("record --config CONFIG --since 2150-01-01T00:00Z", "lies in the future"),
        ("record --config CONFIG --from-seq 7 --to-seq 6", "--to-seq 6 is before --from-seq 7"),
        ("record --config CONFIG --since 10m --from-seq 7", "two beginnings"),
        ("record --config CONFIG --since 10m --until 5m --to-seq 7", "two ends"),
        ("record --config CONFIG --since 10m --until 5m --follow", "which is over"),
        ("record --config CONFIG --until 5m", "needs a beginning"),
        ("record --config CONFIG --for 0s", "above zero"),
        ("record --config CONFIG --step 15s", "--step goes with --from-prometheus"),
        ("record --config CONFIG --domain cell-7", "the domains are cell-0"),
        ("record --config CONFIG --from-prometheus http://x --start 5m --end 10m", "is not after the beginning"),
        ("audit FILE --since 5m --until 10m", "is not after the beginning"),
        ("report FILE -o x.html --since 5m --until 10m", "is not after the beginning"),
        ("audit FILE --nats nats://127.0.0.1:9", "without FILE"),
        ("tap FILE --prefix x", "without FILE"),
        ("tap FILE --live --json", "--json"),
        ("tap --live --workload x", "--workload"),
        ("tap FILE --kind nobody", "nobody"),
        ("tap FILE --kind sample --outcome failed", "--outcome is about actions"),
        ("tap FILE --workload nobody", "there is no workload or target 'nobody'; there are cell-0/robot-control"),
        ("tap FILE --domain cell-7", "the domains are cell-0"),
        ("explain", "DECISION"),
        ("record --config CONFIG -o NEW --since 5m --from-prometheus nonsense", "--from-prometheus: url: 'nonsense'"),
        ("record --config CONFIG -o NEW --since 5m --from-prometheus http://x:99999", "'http://x:99999' is no address"),
        ("tap --nats EMPTY", "servers: '' is no address"),
        ("tap --nats nats://127.0.0.1:99999", "servers: 'nats://127.0.0.1:99999' is no address"),
        ("tap --nats nats://:4222", "servers: 'nats://:4222' is no address"),
        ("ui FILE --listen EMPTY", "--listen is empty"),
        ("ui FILE --user-header EMPTY", "--user-header is empty"),
        ("ui FILE --allow-host EMPTY", "--allow-host is empty"),
        ("calibrate FILE --domain cell-7", "the domains are cell-0"),
        ("calibrate FILE --seconds 5", "without FILE"),
    ],
)
def test_options_without_a_meaning_are_refused(tmp_path: Path, command: str, why: str) -> None:
    """The sentence names the option, and nothing is written or read."""
    done = run(command, tmp_path)
    assert done.exit_code == ExitCode.USAGE, done.output
    assert why in done.stderr
    assert not (tmp_path / "new.jsonl.zst").exists()


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("tap FILE", ExitCode.OK, ""),
        ("tap FILE --workload telemetry-upload --kind action", ExitCode.OK, ""),
        ("tap FILE --outcome failed", ExitCode.FINDING, "none of its 20 samples, 20 decisions"),
        ("tap FILE --since 1m", ExitCode.FINDING, "none of its 20 samples, 20 decisions"),
        ("audit FILE --since 1m", ExitCode.FINDING, "none of its 20 samples, 20 decisions"),
        ("explain nobody FILE", ExitCode.FINDING, "the domains are cell-0"),
        ("replay CONFIG", ExitCode.UNREADABLE, "line 1: not the header of a recording"),
        ("audit FILE --config nowhere.yaml", ExitCode.UNREADABLE, "nowhere.yaml"),
        ("record --config CONFIG -o NEW --since 5m", ExitCode.UNAVAILABLE, "nats://127.0.0.1:9"),
        ("calibrate FILE", ExitCode.OK, ""),
        ("calibrate FILE --since 1m", ExitCode.FINDING, "none of its 20 samples, 20 decisions"),
        ("calibrate CONFIG", ExitCode.UNREADABLE, "line 1: not the header of a recording"),
        ("calibrate --nats nats://127.0.0.1:9", ExitCode.UNAVAILABLE, "nats://127.0.0.1:9"),
        ("check nowhere.yaml", ExitCode.FINDING, "nowhere.yaml"),
    ],
)
def test_exit_codes_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: ExitCode, why: str
) -> None:
    """All commands share one table, which the documentation shows."""
    monkeypatch.setattr("services.tools.common.bus_reader._TIMEOUT_S", 0.5)
    done = run(command, tmp_path)
    assert done.exit_code == code, done.output
    assert why in done.stderr
    assert "Traceback" not in done.output


def test_the_documentation_has_every_exit_code() -> None:
    """``docs/tools.md`` lists exactly the codes that the code defines."""
    text = (Path(__file__).parents[3] / "docs" / "tools.md").read_text(encoding="utf-8")
    table = text.partition("## Exit codes")[2].partition("\n## ")[0]
    cells = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert [int(cell) for cell in cells if cell.isdigit()] == [int(code) for code in ExitCode]
