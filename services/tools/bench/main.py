"""``sluice bench``: a table of benches, each loaded only when it is asked for."""

import importlib

import click

BENCHES = {
    "bus": ("services.tools.bench.bus", "Decisions a second, from sample to decision, memory."),
    "core": ("services.tools.bench.core", "Steps a second of the pure control core."),
    "memory": ("services.tools.bench.memory", "Readiness and memory of sampler and actuator."),
    "pipeline": ("services.tools.bench.pipeline", "From a sample to its patches' answers, beside the bare hops."),
    "policies": ("services.tools.bench.policies", "Every policy on every scenario of the simulated plant."),
    "factory": ("services.tools.bench.factory", "Policies on real packets, and the goals they meet (needs root)."),
    "exporter": ("services.tools.bench.exporter", "Flows and pairs a second, memory with many pending pairs."),
    "replay": ("services.tools.bench.replay", "Samples a second replayed, in this process and onto a bus."),
    "signals": ("services.tools.bench.signals", "How late a step in latency shows, by source, and what that costs."),
    "plant": ("services.factory.sidebyside", "The simulated plant beside the real one."),
}
"""Name -> module that holds a click command named ``command``, and its line of help."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in BENCHES:
            return None
        command: object = importlib.import_module(BENCHES[cmd_name][0]).command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Benches"):
            formatter.write_dl([(name, text) for name, (_, text) in BENCHES.items()])


@click.group(cls=_Lazy)
def command() -> None:
    """Measure speed and memory."""
