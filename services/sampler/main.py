"""``sluice sampler``: wires the source, the loop and the bus."""

import asyncio

from schemas.config import Config
from schemas.domain import Domain, without_templates
from services.bus.bus import Bus
from services.definitions.follower import Defined, Follower
from services.runtime.health import Health
from services.runtime.service import service_command
from services.sampler.loop import Outbox, Sampler
from services.sampler.shifts import Shifts
from services.sampler.source_factory import check_source, open_source
from services.sampler.workloads import Workloads, metric_names


@service_command("sampler", "clock", "source", check=check_source)
async def command(config: Config, bus: Bus, health: Health) -> None:
    """Measure: publish one sample per domain and signal period."""
    signal, names = config.signal, metric_names(config.signal)
    outbox = Outbox(
        (domain.name for domain in without_templates(config.domains)),
        lambda sample: bus.publish(bus.subjects.sample(sample.domain), sample, msg_id=sample.id),
        keep=signal.window // signal.period,
        timeout=signal.window.seconds,
    )

    def find_workloads(domains: tuple[Domain, ...]) -> Workloads:
        return Workloads.from_domains(names, domains)

    replica = config.sharding.replica
    shifts = None if replica is None else Shifts(replica, lambda: "bus" not in health.problems)
    with open_source(config) as source:
        sampler = Sampler(
            config,
            source.measure,
            outbox.put,
            health,
            define_source=lambda domains: source.define(find_workloads(domains)),
        )
        if shifts is not None:
            sampler.is_mine = shifts.is_mine
        # Only without a label for a namespace may what is known keep another domain from being measured.
        check = None if names.namespace else find_workloads
        definitions = Follower(config.domains, health.set_note, check=check)

        def is_without_critical(domain: str) -> bool:
            known = definitions.defined.get(domain)
            return known is not None and known.without_critical

        sampler.is_without_critical = is_without_critical

        def define(before: Defined | None, after: Defined | None) -> None:
            if before is not None and after is not None and before.domain is after.domain:
                return  # only what does not concern the measuring is other
            sampler.define(definitions.domains)
            if after is None and before is not None:
                outbox.drop(before.domain.name)

        definitions.on_change(define)
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            if shifts is not None:
                group.create_task(shifts.run(bus))
            group.create_task(definitions.follow(bus))
            group.create_task(sampler.run())
