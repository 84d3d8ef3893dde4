"""The benches of a fleet that run the services, on few nodes."""

import pytest

from services.bench.fleet.change import measure_change
from services.bench.fleet.service_costs import (
    ServiceCost,
    measure_actuator,
    measure_sampler,
    summarize_services,
)

NODES = 3


async def test_a_changed_file_reaches_every_instance() -> None:
    """Its definitions come before the first decision under it, and that before the last one."""
    first, last, half, all_ = (await measure_change(NODES)).values()
    assert 0 < first <= last
    assert first < half <= all_


async def test_actuator_and_sampler_do_the_work_that_is_measured() -> None:
    """Limits are patched on the Pods of each node, and each instance is sampled."""
    actuator, sampler = await measure_actuator(NODES, 2), await measure_sampler(NODES, 2)
    assert actuator.more["patches a second"] > 0
    assert actuator.more["watches opened in all"] >= 2
    assert sampler.more["samples a second"] > 0
    assert min(actuator.share, sampler.share) > 0


def test_memory_by_instance_is_what_the_many_need_beyond_the_few() -> None:
    """Each service has its own figures."""
    costs = [
        ServiceCost(service=service, instances=count, share=0.1, resident_mib=30 + count * kib / 1024)
        for service, kib in (("sampler", 8), ("actuator", 32))
        for count in (10, 100, 1000)
    ]
    figures = summarize_services(costs)
    assert figures["sampler, memory of an instance, KiB"] == pytest.approx(8)
    assert figures["actuator, memory of an instance, KiB"] == pytest.approx(32)
