"""The ``sluice`` command: a table of subcommands, each loaded only when it is asked for.

A pod runs one of them, and must not pay in memory for what the others import.
"""

import importlib
from typing import Any

import click

COMMANDS = {
    "sampler": ("services.sampler.main", "Measure: publish one sample per domain and signal period."),
    "decision": ("services.decision.main", "Decide: answer each sample with limits."),
    "actuator": ("services.actuator.main", "Act: put the limits in force on the cluster."),
    "exporter": ("services.exporter.main", "Measure: write the latency histogram from Hubble's flows and probes."),
    "echo": ("services.exporter.echo_server", "Answer the exporter's probes beside a critical workload."),
    "demo": ("services.plant.commands.demo", "Run the whole pipeline on embedded parts and a simulated factory."),
    "factory": ("services.plant.commands.factory", "Run the whole pipeline on real packets (needs root)."),
    "plant": ("services.plant.commands.plant", "Serve a simulated factory and an emulated Kubernetes API."),
    "record": ("services.tools.record.command", "Write a range of the bus, or of a Prometheus's past, to a file."),
    "replay": ("services.tools.replay.command", "Step through a recording again, or try other policies on it."),
    "bench": ("services.bench.main", "Measure speed and memory."),
    "tap": ("services.tools.tap.command", "Follow the bus."),
    "audit": ("services.tools.audit.command", "Check that everything on the bus keeps the rules."),
    "explain": ("services.tools.explain.command", "Explain why a limit changed."),
    "report": (
        "services.tools.report.command",
        "Write a page about a recording, for engineers and for those who run the plant.",
    ),
    "check": ("services.tools.check.command", "Check a configuration before it is used."),
    "restore": ("services.actuator.restore", "Put the annotations back as they were found."),
}
"""Name -> module that holds a click command named ``command``, and its line of help."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: Any = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy)
@click.version_option(package_name="sluice")
def main() -> None:
    """Sluice keeps critical pods' latency within its limits and gives best effort all other bandwidth."""
