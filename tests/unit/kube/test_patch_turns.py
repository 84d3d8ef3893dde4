"""A storm of patches becomes a stream, and cuts come first."""

import asyncio
from contextlib import suppress

import pytest

from services.kube.objects import Superseded
from services.kube.transport import PatchTurns
from tests.support.virtual_time import VirtualClock, virtual_time


def test_a_storm_becomes_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's patches go at once; then so many a second, the cuts before the raises that came first."""
    sent: list[tuple[float, bool]] = []

    async def patch(turns: PatchTurns, clock: VirtualClock, *, is_cut: bool) -> None:
        async with turns.take(is_cut=is_cut):
            sent.append((clock.steady(), is_cut))
            await asyncio.sleep(0.01)

    async def storm(clock: VirtualClock) -> float:
        turns = PatchTurns(12, 100, clock.steady)
        began = clock.steady()
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(patch(turns, clock, is_cut=number >= 300))
        return began

    with virtual_time(monkeypatch) as (runner, clock):
        began = runner.run(storm(clock))
    ends = {is_cut: max(at for at, cut in sent if cut is is_cut) - began for is_cut in (True, False)}
    assert len(sent) == 400
    assert ends[True] < 1.5
    assert 2.9 < ends[False] < 4.5
    seconds = [sum(begin <= at - began < begin + 1 for at, _ in sent) for begin in range(5)]
    assert max(seconds) <= 200


def test_who_gives_up_waiting_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled patch neither keeps its turn nor loses another's."""

    async def scenario(clock: VirtualClock) -> int:
        turns = PatchTurns(1, 1000, clock.steady)
        done = 0

        async def patch() -> None:
            nonlocal done
            async with turns.take(is_cut=True):
                await asyncio.sleep(0.1)
                done += 1

        tasks = [asyncio.create_task(patch()) for _ in range(10)]
        await asyncio.sleep(0.15)
        for task in tasks[::2]:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await patch()
        return done

    with virtual_time(monkeypatch) as (runner, clock):
        assert runner.run(scenario(clock)) == 7, "the first, the five that stayed, and the one after them"


def test_room_is_found_once_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for room is woken one for each turn that is left over, and takes none from those in line."""
    woken: list[int] = []

    async def scenario(clock: VirtualClock) -> tuple[list[int], int]:
        turns = PatchTurns(2, 1000, clock.steady)

        async def patch() -> None:
            async with turns.take(is_cut=True):
                await asyncio.sleep(1)

        async def hope(number: int) -> None:
            await turns.wait_for_room()
            woken.append(number)

        patches = [asyncio.create_task(patch()) for _ in range(5)]
        await asyncio.sleep(0.5)
        hopes = [asyncio.create_task(hope(number)) for number in range(4)]
        await asyncio.sleep(0)
        hopes[0].cancel()
        await asyncio.sleep(1)
        early = list(woken)
        await asyncio.gather(*patches)
        await asyncio.sleep(0)
        await asyncio.gather(*hopes[1:])
        return early, turns.room

    with virtual_time(monkeypatch) as (runner, clock):
        assert runner.run(scenario(clock)) == ([], 2)
    assert woken == [1, 2, 3]


def test_what_is_no_longer_wanted_uses_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions that come faster than their patches do not keep the newest from being sent."""

    async def scenario(clock: VirtualClock) -> float:
        turns = PatchTurns(12, 10, clock.steady)
        began = clock.steady()

        async def patch(*, is_wanted: bool) -> float:
            async with turns.take(is_cut=True):
                if not is_wanted:
                    raise Superseded
                await asyncio.sleep(0.01)
            return clock.steady() - began

        old = [asyncio.create_task(patch(is_wanted=False)) for _ in range(300)]
        await asyncio.sleep(0)  # they are in front
        took = await patch(is_wanted=True)
        assert all(isinstance(one, Superseded) for one in await asyncio.gather(*old, return_exceptions=True))
        return took

    with virtual_time(monkeypatch) as (runner, clock):
        assert runner.run(scenario(clock)) < 1, "300 turns at 10 a second would be half a minute"
