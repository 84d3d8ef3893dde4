"""A policy that remembers more at each step, until no message holds it: it loses its own samples, and nobody else's."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from schemas.messages import Decision
from services.bus.bus import Bus
from tests.integration.decision.test_service import letters, run_service
from tests.support.decision_services import S, config_text, join, read_stream, sample, send
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

LEAK = """
from msgspec import Struct
from schemas.settings import Settings
from services.control.policy import Proposal

class Hoard(Struct, frozen=True):
    kept: str = ""

class Leak:
    version, memory_type, parameters_type = "leak/1", Hoard, Settings
    def __init__(self, domain):
        pass
    def propose(self, memory, seen, bounds):
        return Proposal(bounds.limit, "remembers", Hoard(memory.kept + "x" * 400_000))
"""


async def test_a_leak_costs_its_own_domain_only(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples become dead letters with the size as the reason; another domain is answered throughout."""
    (tmp_path / "leaking_policy.py").write_text(LEAK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = config_text(nats.url, "sluice", ("press", "paint"))
    text = text.replace("  - name: press\n", '  - name: press\n    policy: "leaking_policy:Leak"\n')
    begin = time.time_ns() - 10 * S
    async with join(nats.url, "sluice") as bus, run_service(bus, text):
        for number in range(1, 9):
            await send(bus, [sample("press", number, begin), sample("paint", number, begin)])
        async with asyncio.timeout(PATIENCE_S):
            while len(counted := await count(bus)) < 2 or counted["paint"] < 8 or not await letters(bus):  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.1)
        assert 0 < counted["press"] < 8
        reasons = await letters(bus)
        assert all("maximum" in one.lower() or "bytes" in one for one in reasons), reasons


async def count(bus: Bus) -> Counter[str]:
    """How many decisions each domain has."""
    return Counter(one.message.domain for one in await read_stream(bus, Decision))
