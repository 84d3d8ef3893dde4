"""``make install``, ``make uninstall`` and ``make demo`` in a fresh checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import COMMANDS
from tests.e2e.test_demo import run_printed_commands
from tests.support.readme import ROOT
from tests.support.waiting import PATIENCE_S

WHOLE_S = 10 * PATIENCE_S
"""Dependencies may come from a slow registry."""
RECORDING = ROOT / "tests" / "golden" / "factory-learned.jsonl.zst"


def make(target: str, prefix: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a target with this PREFIX, and pip alone to install packages; ``path`` precedes PATH."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = f"{path}:{environment['PATH']}"
    command = ["make", "-C", str(ROOT), target, f"PREFIX={prefix}", "UV="]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=WHOLE_S, check=False)


@pytest.mark.index
@pytest.mark.long
def test_every_command_works_where_it_was_installed(tmp_path: Path) -> None:
    """From any folder, without the checkout on Python's path and without test tools; uninstall removes everything."""
    prefix = tmp_path / "prefix"
    done = make("install", prefix)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{prefix}/bin is not on PATH" in done.stdout
    sluice = prefix / "bin" / "sluice"
    for command in COMMANDS:
        shown = subprocess.run([sluice, command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
    page = tmp_path / "run.html"
    plugin = prefix / "bin" / "kubectl-sluice"
    shown = subprocess.run([plugin, "tap", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    for arguments in (("replay", RECORDING), ("report", RECORDING, "-o", page)):
        run = subprocess.run([sluice, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    assert page.stat().st_size > 10**6
    packages = {entry.name for entry in prefix.glob("share/sluice/lib/python*/site-packages/*")}
    assert "kubernetes" in packages
    assert not packages & {"z3", "mypy", "grpc_tools", "pytest", "hypothesis", "matplotlib"}
    assert not (prefix / "share" / "sluice" / "bin" / "uv").exists()
    again = make("uninstall", prefix)
    assert again.returncode == 0, again.stderr
    assert [path for path in prefix.rglob("*") if not path.is_dir()] == []


@pytest.mark.index
@pytest.mark.long
def test_the_demo_of_a_fresh_checkout(tmp_path: Path) -> None:
    """``make demo`` sets itself up, prints little without a terminal, and the commands at its end work as printed.

    Packages are installed by uv.
    """
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("LICENSE", "Makefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    for name in ("requirements", "schemas", "services"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["make", "-C", str(checkout), "demo", "ARGS=--seconds 9"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment["UV"] = str(Path(sys.executable).parent / "uv")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=WHOLE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 50, done.stdout
    run_printed_commands(done.stdout, checkout / "out" / "demo.rec", checkout)


def test_what_it_did_not_install_stays(tmp_path: Path) -> None:
    """An existing program of that name is neither overwritten nor removed."""
    program = tmp_path / "bin" / "sluice"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    done = make("install", tmp_path)
    assert done.returncode != 0
    assert f"{program} was not installed from here" in done.stdout
    assert make("uninstall", tmp_path).returncode == 0
    assert program.read_bytes() == Path("/bin/true").read_bytes()
