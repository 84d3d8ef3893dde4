"""The ``sluice`` command: each subcommand's module is loaded only when that subcommand runs.

A pod runs one of them, and must not pay in memory for what the others import.  A new subcommand is a
module with a click command named ``command``, and a line in ``COMMANDS``.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

COMMANDS = {
    "sampler": "services.sampler.main",
    "decision": "services.decision.service",
    "actuator": "services.actuator.service",
    "exporter": "services.exporter.main",
    "meter": "services.meter.main",
    "echo": "services.exporter.echo_server",
    "demo": "services.plant.commands.demo",
    "factory": "services.plant.commands.factory",
    "plant": "services.plant.commands.plant",
    "record": "services.tools.record.command",
    "replay": "services.tools.replay.command",
    "bench": "services.bench.main",
    "tap": "services.tools.tap.command",
    "audit": "services.tools.audit.command",
    "explain": "services.tools.explain.command",
    "report": "services.tools.report.command",
    "calibrate": "services.tools.calibrate.command",
    "export": "services.tools.export.command",
    "ui": "services.ui.command",
    "check": "services.tools.check.command",
    "restore": "services.actuator.restore",
    "pause": "services.tools.kubectl.pause",
    "resume": "services.tools.kubectl.resume",
}
_EXTRAS = {"numpy": "factory", "kmock": "factory", "jsonpatch": "factory", "grpc": "exporter", "google": "exporter"}
"""By a package that a command imports, the extra that it is in."""
_WITHOUT_STRUCTLOG = ("meter", "echo")
"""Commands that save the memory for it."""


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only to run it, and lists summaries without importing any."""

    def __init__(self, modules: Mapping[str, str], title: str = "Commands", **settings: Any) -> None:
        """Take the module of each subcommand by name, and the title of their list."""
        super().__init__(**settings)
        self.modules = modules
        self._title = title

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands' names."""
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self.modules:
            return None
        if cmd_name not in _WITHOUT_STRUCTLOG:
            _import_structlog_alone()
        try:
            command: click.Command = importlib.import_module(self.modules[cmd_name]).command
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in _EXTRAS:
                raise
            raise click.ClickException(
                f"{cmd_name} needs the package {missing}: pip install 'sluice[{_EXTRAS[missing]}]'"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List each subcommand with the first paragraph of its docstring."""
        with formatter.section(self._title):
            formatter.write_dl([(name, read_summary(module)) for name, module in self.modules.items()])


def _import_structlog_alone() -> None:
    """Import structlog without rich, a quarter of a service's start-up and 5 MiB.

    structlog imports it, wherever it is installed, for coloured tracebacks on a terminal.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        # What Python then raises for an import of rich is what structlog expects where it is not installed.
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("structlog")
        finally:
            del sys.modules["rich"]


def read_summary(module: str) -> str:
    """The first paragraph of the docstring of a module's function ``command``, read from its source."""
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin).read_bytes() if spec is not None and spec.origin is not None else b""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "command":
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    raise LookupError(f"{module} has no function named 'command'")


@click.group(cls=LazyGroup, modules=COMMANDS)
@click.version_option(package_name="sluice")
def main() -> None:
    """Keep critical pods' latency within its limits, and give best-effort pods all remaining bandwidth."""
