"""The decision service on a real bus: its answers, its dead letters, its health and metrics."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from schemas.link import LinkEstimate
from schemas.messages import DeadLetter, Decision, Rule, Sample, encode
from services.bus.bus import Bus
from services.control import Controller
from services.control.policies.learned.knee import Knee
from services.control.policies.learned.memory import LearnedMemory
from services.decision.domain_log import BusDecisionLog
from services.decision.service import DecisionService
from services.runtime.health import Health
from tests.support.decision_services import (
    PERIOD,
    DecisionProcess,
    S,
    check,
    config_text,
    join,
    parse_config,
    read_stream,
    sample,
    send,
    wait_for_decisions,
    wait_for_stored,
)
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

DOMAINS = ("press", "paint")


@asynccontextmanager
async def run_service(bus: Bus, text: str) -> AsyncIterator[Health]:
    """The service in this process; yields its health."""
    health = Health("samples")
    running = asyncio.create_task(DecisionService(parse_config(text), bus, health).run())
    try:
        yield health
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def read_counter(name: str, **labels: str) -> float:
    """A counter's value."""
    return REGISTRY.get_sample_value(f"sluice_{name}_total", labels) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of the service."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what changes is no event of ours
            await asyncio.sleep(0.02)


async def letters(bus: Bus) -> list[str]:
    """The reasons of all dead letters."""
    return [one.message.reason for one in await read_stream(bus, DeadLetter)]


async def test_what_cannot_be_answered_stops_nothing(nats: NatsServer) -> None:
    """An unknown domain, another domain's subject, a date in the future or garbage is counted or dead-lettered."""
    text = config_text(nats.url, "odd", DOMAINS)
    now = time.time_ns()
    unknown = read_counter("decision_unknown")
    async with join(nats.url, "odd") as bus, run_service(bus, text):
        await send(bus, [sample("press", 1, now - 60 * S), sample("nobody's", 1, now - 60 * S)])
        stray = sample("paint", 9, now - 60 * S)
        await bus.publish(bus.subjects.sample("press"), stray, msg_id="stray")
        ahead = replace(sample("press", 1, now), end=now + 3600 * S)
        await send(bus, [ahead])
        await bus._session.send(bus.subjects.sample("press"), b"nonsense")
        await send(bus, [sample("press", 2, now - 60 * S), sample("paint", 1, now - 60 * S)])
        await wait_for_decisions(bus, 3)
        assert [one.message.sample for one in await read_stream(bus, Decision) if one.message.domain == "press"] == [
            sample("press", n, now - 60 * S).id for n in (1, 2)
        ]
        await until(lambda: read_counter("decision_unknown") == unknown + 1)
        domain, syntax, date = sorted(await letters(bus))
        assert domain == "a sample of domain 'paint' on another's subject"
        assert syntax.startswith("not a Sample")
        assert "ahead of the bus's clock" in date
        assert await bus.ack_floor(Sample, "decision") == 7


async def test_a_sample_on_which_the_core_fails_is_put_aside(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the core costs one sample, not the domain."""
    step = Controller.step

    def failing(self: Controller, state: object, one: Sample, *more: object) -> Decision:
        if one.source == "poison":
            raise ZeroDivisionError("by zero")
        return step(self, state, one, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Controller, "step", failing)
    begin = time.time_ns() - 60 * S
    async with join(nats.url, "poison") as bus, run_service(bus, config_text(nats.url, "poison", ["press"])):
        await send(bus, [sample("press", 1, begin), replace(sample("press", 2, begin), source="poison")])
        await send(bus, [sample("press", 3, begin)])
        await wait_for_decisions(bus, 2)
        assert [one.message.seq for one in await read_stream(bus, Decision)] == [1, 2]
        assert await letters(bus) == ["ZeroDivisionError: by zero"]


async def test_samples_that_come_twice_or_late_are_answered_once(nats: NatsServer) -> None:
    """Repeated samples outside of the server's window, and overtaken ones, are only counted."""
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "late", ["press"])
    stale = read_counter("decision_stale")
    async with join(nats.url, "late") as bus, run_service(bus, text):
        for number, one in enumerate([1, 2, 4, 3, 4, 2, 5]):
            await bus.publish(bus.subjects.sample("press"), sample("press", one, begin), msg_id=str(number))
        await wait_for_decisions(bus, 4)
        await until(lambda: read_counter("decision_stale") == stale + 3)
        assert await check(bus, parse_config(text)) == 4
        assert [one.message.end for one in await read_stream(bus, Decision)] == [
            sample("press", number, begin).end for number in (1, 2, 4, 5)
        ]


async def test_decisions_outlive_the_stream_of_samples(nats: NatsServer) -> None:
    """Only the samples are wiped, and count from 1 again: the same epoch continues, nothing is skipped."""
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "half", ["press"])
    async with join(nats.url, "half") as bus:
        async with run_service(bus, text):
            await send(bus, [sample("press", number, begin) for number in range(1, 11)])
            await wait_for_decisions(bus, 10)
            await bus._session.request("STREAM.DELETE.HALF_SAMPLE")
            await send(bus, [sample("press", number, begin) for number in range(11, 16)])
            await wait_for_decisions(bus, 15)
        # Once more while no service runs, and beyond the old numbers before one starts.
        await bus._session.request("STREAM.DELETE.HALF_SAMPLE")
        await send(bus, [sample("press", number, begin) for number in range(16, 41)])
        async with run_service(bus, text):
            await wait_for_decisions(bus, 40)
        decisions = [one.message for one in await read_stream(bus, Decision)]
        assert [one.end for one in decisions] == [sample("press", number, begin).end for number in range(1, 41)]
        assert [(one.epoch, one.seq) for one in decisions] == [(decisions[0].end, n) for n in range(1, 41)]


async def test_a_lost_stream_of_decisions_begins_an_epoch_now(nats: NatsServer) -> None:
    """It does not begin with the oldest stored sample: answered samples stay answered."""
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "other", ["press"])
    async with join(nats.url, "other") as bus:
        async with run_service(bus, text):
            await send(bus, [sample("press", number, begin) for number in range(1, 11)])
            await wait_for_decisions(bus, 10)
        await bus._session.request("STREAM.DELETE.OTHER_DECISION")
        await bus.ensure_streams()
        async with run_service(bus, text):
            await send(bus, [sample("press", number, begin) for number in range(11, 13)])
            await wait_for_decisions(bus, 2)
        decisions = [one.message for one in await read_stream(bus, Decision)]
        assert [(one.end, one.epoch) for one in decisions] == [
            (sample("press", number, begin).end, sample("press", 11, begin).end) for number in (11, 12)
        ]


async def test_a_lost_consumer_goes_on_after_the_last_decision(nats: NatsServer) -> None:
    """A day of old samples is not read again."""
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "gone", DOMAINS)
    async with join(nats.url, "gone") as bus:
        async with run_service(bus, text):
            await send(bus, [sample(domain, number, begin) for number in range(1, 51) for domain in DOMAINS])
            await wait_for_decisions(bus, 100)
        await bus._session.request("CONSUMER.DELETE.GONE_SAMPLE.decision")
        stale = read_counter("decision_stale")
        async with run_service(bus, text):
            await send(bus, [sample(domain, 51, begin) for domain in DOMAINS])
            await wait_for_decisions(bus, 102)
        assert read_counter("decision_stale") - stale <= len(DOMAINS)
        assert await check(bus, parse_config(text)) == 102


async def test_a_last_decision_of_a_later_build_begins_an_epoch(nats: NatsServer) -> None:
    """A decision of a later build becomes a dead letter, and the domain begins a new epoch."""
    begin = time.time_ns() - 60 * S
    async with join(nats.url, "next") as bus:
        async with run_service(bus, config_text(nats.url, "next", ["press"])):
            await send(bus, [sample("press", number, begin) for number in range(1, 4)])
            await wait_for_decisions(bus, 3)
        last = (await read_stream(bus, Decision))[-1].body.replace(b'{"domain"', b'{"v":2,"domain"', 1)
        await bus._session.send(bus.subjects.decision("press"), last)
        async with run_service(bus, config_text(nats.url, "next", ["press"])):
            await send(bus, [sample("press", 4, begin)])
            await wait_for_decisions(bus, 4)
        decisions = [one.message for one in await read_stream(bus, Decision)]
        assert (decisions[-1].epoch, decisions[-1].seq) == (sample("press", 4, begin).end, 1)
        assert "Decision of version 2; this build reads version 1" in await letters(bus)


async def test_what_was_never_a_decision_does_not_begin_an_epoch(nats: NatsServer) -> None:
    """This holds for any number of such messages after the last decision, and between those of other domains."""
    begin = time.time_ns() - 200 * S
    text = config_text(nats.url, "junk", DOMAINS)
    async with join(nats.url, "junk") as bus:
        async with run_service(bus, text):
            await send(bus, [sample("press", number, begin) for number in range(1, 4)])
            await wait_for_decisions(bus, 3)
            await send(bus, [sample("paint", number, begin) for number in range(1, 201)])
            await wait_for_decisions(bus, 203)
        for _ in range(150):
            await bus._session.send(bus.subjects.decision("press"), b'{"stream": "JUNK_SAMPLE", "seq": 1}')
        await wait_for_stored(bus, Decision, 353)
        assert (await BusDecisionLog(bus, "press").find_position()).decision_seq == 353
        async with run_service(bus, text):
            await send(bus, [sample("press", 4, begin)])
            await wait_for_stored(bus, Decision, 354)
        last = await bus.get_last(Decision, bus.subjects.decision("press"))
        assert last is not None
        assert (last.message.epoch, last.message.seq) == (sample("press", 1, begin).end, 4)
        # A later build's decision is newer than anything before it that this build can read.
        await bus._session.send(bus.subjects.decision("press"), b'{"v":2,"other":"fields"}')
        await bus._session.send(bus.subjects.decision("press"), b"junk")
        await wait_for_stored(bus, Decision, 356)
        position = await BusDecisionLog(bus, "press").find_position()
        assert (position.state, position.decision_seq) == (None, 356)


async def test_a_policy_that_takes_too_long_is_replaced_for_a_step(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision records the fault, and a replay with it gives the same bytes."""
    monkeypatch.setattr("services.decision.domain_worker.STEP_S", -1.0)
    monkeypatch.setattr("services.decision.domain_worker.TimedPolicy.__init__.__defaults__", (time.thread_time, -1.0))
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "slow", ["press"])
    faults = read_counter("decision_faults")
    async with join(nats.url, "slow") as bus, run_service(bus, text):
        await send(bus, [sample("press", number, begin) for number in range(1, 8)])
        await wait_for_decisions(bus, 7)
        decisions = [one.message for one in await read_stream(bus, Decision)]
        assert [one.fault is not None for one in decisions] == [False, True, False, True, True, False, True]
        assert "learned/5 took" in str(decisions[1].fault)
        assert "stands in" in decisions[1].reason
        assert await check(bus, parse_config(text)) == 7
    assert read_counter("decision_faults") == faults + 4


async def test_readyz_reports_problems_of_domains(nats: NatsServer) -> None:
    """It reports a missing, blind or silent domain; and nothing when every domain has data."""
    text = config_text(nats.url, "health", DOMAINS) + "\nsignal: {period: 100ms, window: 2s}"
    async with join(nats.url, "health") as bus, run_service(bus, text) as health:
        await until(lambda: health.problems.get("samples") == "press: no sample yet; paint: no sample yet")

        async def feed(number: int) -> None:
            now = time.time_ns() // PERIOD * PERIOD
            await send(bus, [sample("press", number, now), replace(sample("paint", 1, now), no_data="scrape: timeout")])

        async def fed() -> None:
            number = 0
            while True:
                number += 1
                await feed(number % 7 + 1)
                await asyncio.sleep(0.1)

        feeding = asyncio.create_task(fed())
        await until(lambda: health.problems.get("samples") == "paint: no data: scrape: timeout")
        feeding.cancel()
        await until(lambda: "press: no sample for " in health.problems.get("samples", ""))


async def test_a_new_instance_begins_with_what_another_learned(nats: NatsServer) -> None:
    """Its first decision says from whom and from which decision, and replays the same; the second is as any."""
    begin = time.time_ns() - 60 * S
    text = config_text(nats.url, "warm", ("uplink@a", "uplink@b", "press"))
    domain, new, _ = parse_config(text).domains
    link = LinkEstimate(safe=90_000, expected=0, margin=0, headroom=90_000, lesson="steady", met=begin)
    memory = LearnedMemory(knee=Knee(90_000.0, begin, 30.0))
    first = Controller(domain).answer(None, sample("uplink@a", 1, begin), begin + 10 * S)
    known = replace(first, link=link, state=replace(first.state, memory=memory))
    async with join(nats.url, "warm") as bus:
        seq = await bus.publish(bus.subjects.decision("uplink@a"), known, msg_id="known")
        async with run_service(bus, text):
            await send(bus, [sample(name, number, begin) for number in (2, 3) for name in ("uplink@b", "press")])
            await wait_for_decisions(bus, 5)
        stored = {one.message.id: one.published for one in await read_stream(bus, Sample)}
        decided = [one.message for one in await read_stream(bus, Decision)]
    ours, later = (one for one in decided if one.domain == "uplink@b")
    assert ours.inherited is not None
    assert (ours.inherited.domain, ours.inherited.seq) == ("uplink@a", seq)
    assert ours.link is not None
    assert ours.link.safe > 80_000
    assert [one.inherited for one in decided if one.domain == "press" or one is later] == [None] * 3
    again = Controller(new)
    cause = sample("uplink@b", 2, begin)
    replayed = again.answer(None, cause, stored[cause.id], ours.fault, ours.reported, ours.inherited)
    assert encode(replayed) == encode(ours)


async def test_the_command_serves_health_and_metrics(nats: NatsServer, tmp_path: Path) -> None:
    """It is ready with bus, streams and samples; metrics show limits and lag; SIGTERM ends it with 0."""
    port = free_port()
    text = config_text(nats.url, "ready", ["press"]).replace("decision: 0", f"decision: {port}")

    def fetch(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    async with join(nats.url, "ready") as bus:
        with DecisionProcess(tmp_path, text) as process:
            begin = time.time_ns() - 10 * S
            async with asyncio.timeout(PATIENCE_S):
                number, sent = 1, 0
                while (status := await asyncio.to_thread(fetch, "/readyz"))[0] != 200:
                    await send(bus, [sample("press", number, begin)])
                    sent += 1
                    number += 1 + (number + 1) % 29 // 28  # no blind sample
                    await asyncio.sleep(0.2)
            await until(lambda: f"sluice_decision_steps_total {float(sent)}\n" in fetch("/metrics")[1])
            metrics = (await asyncio.to_thread(fetch, "/metrics"))[1]
            assert json.loads(status[1]) == {"ready": True, "wrong": {}}
            assert 'sluice_decision_limit_kbit{domain="press",target="default/upload-press"}' in metrics
            assert 'sluice_decision_stress_ratio{domain="press"}' in metrics
            assert "sluice_decision_lag_seconds_bucket" in metrics
            read_counter = Counter(
                (one.message.domain, target.rule)
                for one in await read_stream(bus, Decision)
                for target in one.message.targets
                if target.limit != target.proposal
            )
            shown = re.findall(
                r'^sluice_decision_overruled_total{domain="(.+)",rule="(.+)"} (.+)$', metrics, re.MULTILINE
            )
            assert {(domain, rule): int(float(count)) for domain, rule, count in shown} == {
                ("press", rule): read_counter["press", rule] for rule in get_args(Rule) if rule != "none"
            }
            assert read_counter
            assert "_created" not in metrics
            assert process.stop() == 0
