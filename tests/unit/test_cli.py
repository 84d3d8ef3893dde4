"""The command line: help is written once, and listing commands loads none of them."""

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


@pytest.mark.parametrize("service", ["sampler", "decision", "actuator", "exporter"])
def test_a_service_does_not_load_what_draws_on_terminals(service: str) -> None:
    """It would cost each pod 5 MiB and a quarter of its start-up."""
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from services.cli import main\n"
        f"assert CliRunner().invoke(main, ['{service}', '--help']).exit_code == 0\n"
        "assert 'structlog' in sys.modules\n"
        "assert 'rich' not in sys.modules\n"
        "import rich\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
