"""``sluice decision``: the composition root of the decision service."""

from prometheus_client import REGISTRY

from schemas.config import Config
from services.bus.bus import Bus
from services.decision.domain_log import NAME
from services.decision.metrics import LastDecisions
from services.decision.service import DecisionService
from services.runtime.health import Health
from services.runtime.service import service_command


@service_command(NAME, "samples")
async def command(config: Config, bus: Bus, health: Health) -> None:
    """Decide: answer each sample with limits."""
    service = DecisionService(config, bus, health)
    gauges = LastDecisions(service.last)
    REGISTRY.register(gauges)
    try:
        await service.run()
    finally:
        REGISTRY.unregister(gauges)
