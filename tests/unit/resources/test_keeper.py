"""Who gets a status when the API server refuses some."""

import asyncio
from collections.abc import Mapping
from typing import Any

from services.kube.objects import Rejected
from services.resources.keeper import DefinitionView, StatusKeeper
from services.resources.objects import BandwidthDomain, ResourceMeta


class Writer:
    """An API server that refuses the status of ``odd``."""

    def __init__(self) -> None:
        """Nothing was written."""
        self.asked: list[str] = []

    async def patch_status(self, obj: BandwidthDomain, status: Mapping[str, Any]) -> BandwidthDomain:
        """Note who was written."""
        self.asked.append(obj.metadata.name)
        if obj.metadata.name == "odd":
            raise Rejected("status.targets: Too many: 101", status=422)
        return obj


async def test_a_status_that_is_refused_keeps_no_other_from_its_own() -> None:
    """The others are written, and the refused one is not tried again in the next round."""
    writer = Writer()
    resources = {
        ("BandwidthDomain", "plant", name): BandwidthDomain(
            ResourceMeta(name=name, namespace="plant", uid=name, resource_version="1")
        )
        for name in ("odd", "line", "track")
    }
    keeper = StatusKeeper(writer, resources, lambda _: DefinitionView(domain=None, refusal="no critical workload"))
    running = asyncio.create_task(keeper.run())
    async with asyncio.timeout(60):
        while keeper.writes < 2:  # noqa: ASYNC110 - the keeper tells nobody
            await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    running.cancel()
    assert writer.asked == ["odd", "line", "track"]
