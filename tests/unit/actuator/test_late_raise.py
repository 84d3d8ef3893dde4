"""A raise that timed out may be applied by a slow API server after the decision has expired."""

from collections.abc import Callable
from typing import Any

import pytest

from services.kube.objects import Unavailable
from tests.closed_loop.conformance import Stage
from tests.closed_loop.virtual import Actuator, S, settle
from tests.support.kube.objects import after


class SlowServer:
    """Answers no patch in time, and applies each one later."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be slow from now on."""
        self._stage = stage
        self._late: list[tuple[str, list[dict[str, Any]]]] = []

        async def patch(
            _self: Actuator, obj: Any, build: Callable[[], list[dict[str, Any]] | None], *, is_cut: bool
        ) -> Any:
            self._late.append((obj.uid, build() or []))
            raise Unavailable("TimeoutError")

        monkeypatch.setattr(Actuator, "patch_in_turn", patch)

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Apply what was sent, where its tests still hold, and answer in time from now on; returns how many held."""
        monkeypatch.undo()
        applied = 0
        for uid, operations in self._late:
            try:
                self._stage.cluster.store(after(self._stage.cluster.objects[uid], operations))
                applied += 1
            except AssertionError:
                pass
        return applied


async def run(stage: Stage, seconds: float, *, decides: bool) -> None:
    """Let time pass."""
    end = stage.now + round(seconds * S)
    while stage.now < end:
        if decides:
            stage.bus.decisions.append((stage._decide(), stage.now))
        stage.now += S // 4
        await stage.actuators[0].run_until(stage.now)
        await settle()


@pytest.mark.parametrize("answers_again", [False, True])
async def test_a_late_raise_does_not_stay_in_force(monkeypatch: pytest.MonkeyPatch, answers_again: bool) -> None:
    """The fail-safe limit was written meanwhile, and the raise is refused; or it is put right as soon as it is seen."""
    stage = Stage()
    stage.actuators[0].start()
    await run(stage, 3.0, decides=False)
    assert stage.cluster.in_force == 10_000
    server = SlowServer(stage, monkeypatch)
    await run(stage, 2.0, decides=True)
    if answers_again:
        # Another write comes before the late one: the tests of the late one fail.
        held, server._late = server._late, []
        server.apply(monkeypatch)
        await run(stage, 6.0, decides=True)
        server._late = held
    await run(stage, 8.0, decides=False)
    assert stage.cluster.in_force == 10_000
    assert (server.apply(monkeypatch) > 0) is not answers_again
    await run(stage, 0.5, decides=False)
    stage.end()
    await settle()
    assert stage.cluster.in_force == 10_000
    assert (stage.bus.actions[-1].limit, stage.bus.actions[-1].outcome) == (10_000, "applied")
