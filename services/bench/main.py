"""``sluice bench``: each bench's module is loaded only when it runs."""

import click

from services.cli import LazyGroup

BENCHES = {
    "bus": "services.bench.speed.decision_service",
    "core": "services.bench.speed.control_step",
    "memory": "services.bench.speed.memory",
    "pipeline": "services.bench.speed.end_to_end",
    "policies": "services.bench.policies.simulated",
    "train": "services.bench.policies.train",
    "factory": "services.bench.policies.real",
    "fleet": "services.bench.fleet.command",
    "exporter": "services.bench.speed.exporter",
    "replay": "services.bench.speed.replay",
    "definitions": "services.bench.speed.definitions",
    "enforcement": "services.bench.policies.enforcement",
    "meter": "services.bench.signals.meter",
    "signals": "services.bench.signals.lag",
    "chaos": "services.bench.availability.chaos",
    "plant": "services.plant.commands.compare_plants",
    "ui": "services.bench.ui.command",
    "uplinks": "services.bench.uplinks.command",
}


@click.group(cls=LazyGroup, modules=BENCHES, title="Benches")
def command() -> None:
    """Measure speed and memory."""
