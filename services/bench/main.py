"""``sluice bench``: a table of benches, each loaded only when it is asked for."""

import importlib

import click

BENCHES = {
    "bus": ("services.bench.speed.decision_service", "Decisions a second, from sample to decision, memory."),
    "core": ("services.bench.speed.control_step", "Steps a second of the pure control core."),
    "memory": ("services.bench.speed.memory", "Readiness and memory of sampler and actuator."),
    "pipeline": ("services.bench.speed.end_to_end", "From a sample to its patches' answers, beside the bare hops."),
    "policies": ("services.bench.policies.simulated", "Every policy on every scenario of the simulated plant."),
    "factory": ("services.bench.policies.real", "Policies on real packets, and the goals they meet (needs root)."),
    "exporter": ("services.bench.speed.exporter", "Flows and pairs a second, memory with many pending pairs."),
    "replay": ("services.bench.speed.replay", "Samples a second replayed, in this process and onto a bus."),
    "signals": ("services.bench.signals.lag", "How late a step in latency shows, by source, and what that costs."),
    "plant": ("services.plant.commands.compare_plants", "The simulated plant beside the real one."),
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
