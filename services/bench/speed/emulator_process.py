"""The Kubernetes emulator as a process of its own: ``python -m services.bench.speed.emulator_process PORT``."""

import asyncio
import sys

from services.plant.kube_emulator.emulator import Emulator


async def _serve(port: int) -> None:
    async with Emulator(starts_after=None, port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
