"""README's commands, typed as a reader would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from tests.support.kube.apiserver import ApiServer

ROOT = Path(__file__).parents[2]


def commands(section: str) -> list[str]:
    """The indented commands of a section, in order, with continued lines joined and comments removed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README has no section {section!r}"
    block = "\n".join(line[4:] for line in found[1].splitlines() if line.startswith("    "))
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [command for line in lines if (command := re.sub(r"\s+# .*$", "", line).strip())]


class Typed(Struct, frozen=True):
    """One of README's commands, and its result."""

    command: str
    code: int
    output: str


class Installed(Struct, frozen=True):
    """A cluster on which Sluice was installed with README's commands."""

    server: ApiServer
    prefix: Path
    """The PREFIX of ``make install``; its ``bin`` is on PATH."""
    typed: tuple[Typed, ...]

    def type(self, command: str) -> Typed:
        """Run a command as the administrator."""
        return typed(self.server, self.prefix, command)


def typed(server: ApiServer, prefix: Path, command: str) -> Typed:
    """Run a command in a shell at the top of the checkout, with ``prefix`` in place of ~/.local."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLUICE_", "MAKE", "MFLAGS"))}
    environment.pop("KUBECONFIG", None)
    environment |= {"PREFIX": str(prefix), "PATH": f"{prefix / 'bin'}:{environment['PATH']}"}
    # As on a machine that has uv, with which `make install` is quick.
    environment["UV"] = str(Path(sys.executable).parent / "uv")
    with TemporaryDirectory() as home:
        # kubectl's default kubeconfig, as on most machines.
        (Path(home) / ".kube").mkdir()
        shutil.copy(server.kubeconfig(), Path(home) / ".kube" / "config")
        environment |= {"HOME": home, "COLUMNS": "200"}
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
        )
    return Typed(command, done.returncode, done.stdout + done.stderr)
