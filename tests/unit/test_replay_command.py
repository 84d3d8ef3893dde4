"""``sluice replay`` as it is typed: policies and configurations side by side, and what it cannot tell."""

import json
from pathlib import Path

import pytest

from schemas.config import Bus
from services.tools.recording import Reader
from services.tools.serving import configuration
from tests.bus_stream import config, record, stream
from tests.commands import sluice

COUNT = 60


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of one domain."""
    return record(tmp_path / "run.jsonl.zst", config(), stream(config(), COUNT))


def written(recording: Path, file: str, **changes: object) -> Path:
    """The recorded configuration as a file, with other settings of its domain."""
    tree = configuration(Reader(recording).header, Bus())
    tree["domains"] = [tree["domains"][0] | changes]
    path = recording.with_name(file)
    path.write_text(json.dumps(tree))
    return path


def test_policies_and_configurations_side_by_side(recording: Path) -> None:
    """Each has its row; the recorded configuration and policy give what is on record, another gives something else."""
    same, other = written(recording, "same.yaml"), written(recording, "other.yaml", policy="aimd")
    done = sluice("replay", recording, "--policy", "aimd", "--policy", "static", "--config", same, "--config", other)
    assert done.returncode == 0, done.stderr
    for row in ("as recorded", "aimd", "static", "same.yaml", "other.yaml"):
        assert f" {row} " in done.stdout
    assert "A replay cannot tell what latency other limits would have caused" in " ".join(done.stdout.split())
    done = sluice("replay", recording, "--policy", "aimd", "--config", same, "--config", other, "--json")
    found = {name: of["cell-0"] for name, of in json.loads(done.stdout)["variants"].items()}
    assert found["same.yaml"]["limits"] == found["as recorded"]["limits"]
    assert found["other.yaml"] == found["aimd"] != found["as recorded"]
    assert "cannot tell" in json.loads(done.stdout)["note"]


def test_a_configuration_of_something_else(recording: Path) -> None:
    """A configuration about none of the recorded domains has nothing to say, and that is an error."""
    done = sluice("replay", recording, "--config", written(recording, "strange.yaml", name="elsewhere"))
    assert done.returncode == 1
    assert "its domains are elsewhere, those of the recording cell-0" in done.stderr


def test_policies_are_not_for_a_bus(recording: Path) -> None:
    """What runs on the bus has its own policy: the two do not go together."""
    done = sluice("replay", recording, "--policy", "aimd", "--nats", "nats://127.0.0.1:1")
    assert done.returncode == 2
    assert "replay in this process" in done.stderr


@pytest.mark.parametrize("command", [("replay",), ("replay", "--every-policy"), ("audit",)])
def test_nothing_is_not_passed_off_as_success(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A recording without a message, a typo in a name or a prefix: nobody is told that all is well."""
    done = sluice(*command, record(tmp_path / "empty", config(), iter([])))
    assert done.returncode == 1
    assert "there is no " in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("audit",), ("tap",), ("report", "-o", "x.html")])
def test_an_unknown_domain_is_an_error(recording: Path, command: tuple[str, ...]) -> None:
    """A domain that the configuration does not have is named, with those that it has."""
    done = sluice(*command, recording, "--domain", "cell-9")
    assert done.returncode == 1
    assert "there is no domain 'cell-9'; the domains are cell-0" in done.stderr


def test_a_page_that_cannot_be_written(recording: Path, tmp_path: Path) -> None:
    """Where there is no such folder, the error names it."""
    done = sluice("report", recording, "-o", tmp_path / "nowhere" / "x.html")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "nowhere" in done.stderr
