"""The command line: help is written once, and listing commands loads none of them."""

import re
import subprocess
import sys

import click
import pytest

from services.bench.main import BENCHES
from services.cli import COMMANDS, read_summary

MODULES = [*COMMANDS.values(), *BENCHES.values()]


@pytest.mark.parametrize("module", MODULES)
def test_the_listed_summary_is_the_beginning_of_the_commands_own_help(module: str) -> None:
    """The summary from the source equals click's."""
    command = getattr(__import__(module, fromlist=["command"]), "command")  # noqa: B009 - any module's
    assert isinstance(command, click.Command)
    summary = read_summary(module)
    assert summary.endswith(".")
    assert " ".join((command.help or "").split()).startswith(summary)


def test_listing_the_commands_imports_none_of_them() -> None:
    """Nor does one command import the others: a pod loads its own service only."""
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from services.cli import COMMANDS, main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print([one for one in COMMANDS.values() if one in sys.modules])\n"
        "assert CliRunner().invoke(main, ['decision', '--help']).exit_code == 0\n"
        "print([one for one in COMMANDS.values() if one in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['services.decision.service']"]


def test_a_command_says_which_extra_it_lacks() -> None:
    """Sluice alone, as a Pod has it, ends no command of the simulated plant in a traceback."""
    program = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('numpy', 'kmock', 'jsonpatch', 'grpc'))\n"
        "from click.testing import CliRunner\n"
        "from services.cli import main\n"
        "for words in ('demo', 'plant', 'bench policies', 'bench fleet'):\n"
        "    done = CliRunner().invoke(main, [*words.split(), '--help'])\n"
        "    print(done.exit_code, done.output.strip())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert re.fullmatch(r"1 Error: \w+ needs the package \w+: pip install 'sluice\[factory\]'", line), line


_HEAVY: dict[str, set[str]] = {
    "aiohttp": {"actuator", "ui"},
    "dateutil": set(),
    "google": set(),
    "grpc": set(),
    "kubernetes": set(),
    "nats": {"sampler", "decision", "actuator", "exporter", "ui"},
    "numpy": set(),
    "pandas": set(),
    "prometheus_api_client": set(),
    "pydantic": set(),
    "pygments": set(),
    "requests": set(),
    "rich": {"ui"},
    "structlog": {"sampler", "decision", "actuator", "exporter", "ui"},
    "urllib3": set(),
    "zstandard": {"ui"},
}
"""Packages that cost a process more than 1 MiB, and the services that begin with them."""


@pytest.mark.parametrize("service", ["sampler", "decision", "actuator", "exporter", "meter", "ui", "echo"])
def test_a_service_begins_with_no_heavy_package_that_it_does_not_need(service: str) -> None:
    """Each costs a Pod memory: Kubernetes's library 20 MiB, aiohttp 9 MiB, rich 5 MiB and a quarter of its start-up."""
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from services.cli import main\n"
        f"assert CliRunner().invoke(main, ['{service}', '--help']).exit_code == 0\n"
        "print(*sys.modules)\n"
        "import rich, structlog\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name for name in _HEAVY if name in done.stdout.split()}
    assert loaded == {name for name, users in _HEAVY.items() if service in users}
