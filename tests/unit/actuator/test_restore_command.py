"""``sluice restore``: what it says, and its exit code, where it cannot begin."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.actuator.restore import command
from services.runtime.exit_codes import ExitCode

_GOOD = """
domains:
  - name: line
    critical: [{workload: robot, jitter: 500us, p95: 2ms}]
    targets: [{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}]
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "no such file"),
        ("", "expected a mapping with the key 'domains'"),
        ("{domains: [], busy: 1}", "busy: unknown key"),
        (_GOOD, "set kubernetes.kubeconfig or kubernetes.server"),
    ],
)
def test_an_unusable_configuration_is_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, what: str
) -> None:
    """No file, none that is a configuration, and one without a way to the API server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    file = tmp_path / "sluice.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(command, ["--config", str(file)])
    assert done.exit_code == ExitCode.UNREADABLE
    assert what in done.output
