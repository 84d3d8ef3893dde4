"""Patches that cannot be sent yet do not stand in line all at once."""

import asyncio
from collections.abc import Callable
from typing import Any

from services.actuator.apply import apply_plan
from services.actuator.observed import ObservedState
from services.kube.changes import Listed, T
from services.kube.objects import Deployment, Pod
from services.kube.transport import PatchTurns
from tests.support.kube.objects import after, deployment, order, plan_of, pod

PODS = 20


class Api:
    """Patches at once what gets a turn."""

    def __init__(self, turns: PatchTurns) -> None:
        """Take turns."""
        self._turns = turns
        self.patched: list[str] = []
        self.at_once = self._now = 0

    @property
    def room(self) -> int:
        """Turns that are left."""
        return self._turns.room

    async def wait_for_room(self, delay_s: float = 0.0) -> None:
        """Wait for one."""
        await asyncio.sleep(delay_s)
        await self._turns.wait_for_room()

    async def patch_in_turn(
        self, obj: T, build: Callable[[], list[dict[str, Any]] | None], *, is_cut: bool = False
    ) -> T:
        """Apply a patch."""
        async with self._turns.take(is_cut=is_cut):
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            await asyncio.sleep(0)
            self._now -= 1
            operations = build()
            assert operations is not None
            self.patched.append(obj.uid)
            changed: T = after(obj, operations)
            return changed

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Nothing is read again."""
        raise AssertionError(name)


async def test_one_patch_of_a_targets_pods_stands_in_line_while_there_is_no_room() -> None:
    """Others have all turns; once they are done, as many go at once as there are turns."""
    turns, is_free = PatchTurns(4, 1e6), asyncio.Event()
    api, observed = Api(turns), ObservedState(lambda: None)
    app, pods = deployment(replicas=PODS), [pod(number) for number in range(1, PODS + 1)]
    observed.observe(Deployment, Listed((app,)))
    observed.observe(Pod, Listed(tuple(pods)))

    async def hold() -> None:
        async with turns.take(is_cut=True):
            await is_free.wait()

    others = [asyncio.create_task(hold()) for _ in range(4)]
    await asyncio.sleep(0)
    applying = asyncio.create_task(
        apply_plan(api, observed, plan_of(order(20_000), app, *pods), lambda _: True, tolerate_stale=True)
    )
    await asyncio.sleep(0.3)
    assert len(turns._waiting) == 2, "a Pod and the Deployment"
    is_free.set()
    done = await applying
    await asyncio.gather(*others)
    assert len(done.outcomes) == len(set(api.patched)) == PODS + 1
    assert not done.failures
    assert api.at_once == 4
