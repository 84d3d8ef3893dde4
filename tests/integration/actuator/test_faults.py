"""Actuators under faults of the bus, the API server, decisions or other actuators."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.messages import Decision, State, TargetDecision, encode
from schemas.units import Rate
from services.actuator.ownership import RAISE_BACKLOG
from services.bus import envelope
from services.plant.kube_emulator.emulator import Emulator
from tests.support.actuators import DOMAIN, ActuatorProcess, Decider, S, Scene
from tests.support.decision_services import join
from tests.support.fault_tally import Broken, Tally, judge, lateness
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.kube.write_trail import follow_trail
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

FORGED = 10_000


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A Deployment with two Pods, and a bus."""
    await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await server.pods_of("app", 2)
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def test_silence_leads_to_the_fail_safe_limit(
    scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally
) -> None:
    """Without the bus the last decision expires, the fail-safe limit applies, and is reported when the bus returns."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, dead_man="5s") as process:
        await process.is_ready()
        seen = f'target="{scene.server.namespace}/app"'
        assert process.metric("sluice_dead_man_total") == {seen: 0.0}, "an alert on its increase would miss the first"
        assert process.metric("sluice_patches_total")['cause="dead-man",outcome="failed"'] == 0.0
        await scene.enforce(decider, "60M", ["30M"] * 2, good_for=5 * S)
        nats.stop(kill=True)
        await scene.wait_for_limits("10M", ["5M"] * 2)
        assert process.metric("sluice_dead_man_total")[seen] >= 1
        nats.start()
        (*_, action) = await scene.wait_for_reports(cause="dead-man")
        assert (action.outcome, action.limit, action.was) == ("applied", 10_000, 60_000)
        decision = next(one for one in decider.published if one.seq == action.seq)
        assert (action.epoch, action.decision) == (decision.epoch, None)
        tally.add("bus away", "1 outages", Broken(), lateness(action, decision.expires))
        await scene.enforce(decider, "70M", ["35M"] * 2, good_for=5 * S)
        await scene.wait_for_limits("10M", ["5M"] * 2)


async def test_silence_never_raises_a_limit(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A limit below the fail-safe limit stays when decisions stop, even over a restart without a bus."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, dead_man="2s") as process:
        await process.is_ready()
        await scene.enforce(decider, "6M", ["3M"] * 2, good_for=2 * S)
        (action, *_) = await scene.wait_for_reports(cause="dead-man")
        assert (action.outcome, action.limit) == ("unchanged", 6_000)
        nats.stop(kill=True)
        process.kill()
        process.start()
        await asyncio.sleep(4)
        await scene.wait_for_limits("6M", ["3M"] * 2)
        nats.start()
        (start,) = await scene.wait_for_reports(cause="start", outcome="unchanged", limit=6_000)
        assert start.limit == 6_000


async def test_a_starting_actuator_is_safe(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """Without an unexpired decision on the bus it applies the fail-safe limit at once; otherwise that decision."""
    decider = Decider(scene.bus, scene.server.namespace)
    await scene.annotate(f"{scene.server.deployments}/app", {BANDWIDTH: "77M"})
    await decider.publish_limit("60M", end=time.time_ns() - 1000 * S)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        await scene.wait_for_limits("10M", ["5M"] * 2)
        (action,) = await scene.wait_for_reports(cause="start")
        assert (action.outcome, action.limit, action.was) == ("applied", 10_000, 77_000)
        (late, *_) = await scene.wait_for_reports(outcome="skipped")
        assert "expired" in late.reason
    await decider.publish_limit("50M")
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        await scene.wait_for_limits("50M", ["25M"] * 2)
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await process.is_ready()
        assert len(await scene.wait_for_reports(cause="start")) == 1
        await scene.wait_for_limits("50M", ["25M"] * 2)


async def test_it_starts_and_works_without_a_bus(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """Without a bus from the start it handles fail-safe limit, new Pods and drift, and reports them later."""
    nats.stop()
    async with follow_trail(scene.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, scene.server):
            await scene.wait_for_limits("10M", ["5M"] * 2)
            await scene.scale(4)
            await scene.wait_for_limits("10M", ["2500k"] * 4)
            await scene.scale(2)
            await scene.wait_for_limits("10M", ["5M"] * 2)
            nats.start()
            await scene.wait_for_reports(cause="start", outcome="applied")
            await scene.wait_for_reports(2, cause="rescale", outcome="applied")
            verdict = await scene.judge(trail)
    assert verdict.writes >= 7
    tally.add("bus away", f"1 outages, {verdict.writes} writes", judge(verdict))


async def test_reports_survive_a_crash_without_a_bus(
    scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally
) -> None:
    """After a crash with unacknowledged reports of several writes on the same Pods, the next actuator delivers them."""
    nats.stop()
    async with follow_trail(scene.server) as trail:
        for replicas, share in ((3, "3333k"), (2, "5M"), (4, "2500k")):
            with ActuatorProcess(tmp_path, nats.url, scene.server):
                await scene.scale(replicas)
                await scene.wait_for_limits("10M", [share] * replicas)
        nats.start()
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            await process.is_ready()

            async def complete() -> bool:
                actions = await scene.actions()
                is_idle = process.metric("sluice_reports_pending ") == {"": 0.0}
                return is_idle and len(actions) > 3 and trail.has_last_reports(actions)

            await eventually(complete)
            verdict = await scene.judge(trail)
    tally.add("bus away", f"3 kills, {verdict.writes} writes", judge(verdict))


async def test_more_writes_than_an_object_should_owe(nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """In a long outage with constant rescaling, raises stop before a report would be dropped; a crash loses none."""
    emulator = Emulator(starts_after=None)
    async with servers.emulate(emulator) as server, join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        await server.deploy(replicas=2)
        await server.pods_of("app", 2)
        nats.stop()
        async with follow_trail(server) as trail:
            with ActuatorProcess(tmp_path, nats.url, server):
                await scene.wait_for_limits("10M", ["5M"] * 2)
                while await count_unreported(scene) < RAISE_BACKLOG:
                    emulator.scale(f"{server.namespace}/app", 3)
                    await scene.wait_for_limits("10M", ["3333k"] * 3)
                    emulator.scale(f"{server.namespace}/app", 2)
                    await server.pods_of("app", 2)
                    if await count_unreported(scene) < RAISE_BACKLOG:
                        await scene.wait_for_limits("10M", ["5M"] * 2)
                await asyncio.sleep(2)
                assert await scene.pod_bandwidths() == ["3333k"] * 2
            nats.start()
            with ActuatorProcess(tmp_path, nats.url, server) as process:
                await scene.wait_for_limits("10M", ["5M"] * 2)

                async def reported() -> bool:
                    return await nothing_pending(process) and trail.has_last_reports(await scene.actions())

                await eventually(reported)
                verdict = await scene.judge(trail)
    tally.add("bus away", f"1 outages, 1 kills, {verdict.writes} writes", judge(verdict))


async def count_unreported(scene: Scene) -> int:
    """The largest number of unreported writes on an object."""
    records = [json.loads(text) for text in (await scene.records()).values() if text]
    return max(1 + len(record.get("owed", [])) for record in records)


async def test_two_actuators_do_not_flap(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The later one takes over with its first write; the earlier one stays on standby and takes no decision from it."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path / "old", nats.url, scene.server, dead_man="2s") as old:
        await old.is_ready()
        await scene.enforce(decider, "60M", ["30M"] * 2, good_for=10 * S)
        await scene.wait_for_reports(cause="decision", outcome="applied", limit=60_000)
        with ActuatorProcess(tmp_path / "new", nats.url, scene.server) as new:
            await new.is_ready()
            async with follow_trail(scene.server) as trail:
                number = 0
                while not any(notes := [process.ready()[1].get("notes") for process in (old, new)]):
                    # Both receive it, and either may be the first to write.
                    await decider.publish_limit(30_000 + 100 * number)
                    number += 1
                    await asyncio.sleep(0.2)
                assert notes[1] is None, "the later one is in charge"
                for limit in ("20M", "40M", "8M", "30M", "6M"):
                    await decider.publish_limit(limit)
                    await scene.wait_for_limits(limit, [str(Rate(Rate.parse(limit) // 2))] * 2)
            writers = [mark.record["by"] for mark in trail.marks if mark.kind == "Deployment"]
            turns = [by for by, _ in itertools.groupby(writers)]
            assert len(turns) == len(set(writers)), f"they took turns: {turns}"

            async def one_stands_by() -> bool:
                # It notices with a decision that the other one has carried out.
                await decider.publish_limit("6M")
                return sum(process.ready()[1].get("notes") is not None for process in (old, new)) == 1

            await eventually(one_stands_by)

            async def all_reported() -> bool:
                # The one in charge renews its record now and then.
                return not trail.verdict(await scene.actions(), "5M", "80M").wrong

            await eventually(all_reported)


async def test_a_dry_run_beside_it_keeps_no_decision_from_an_actuator(
    scene: Scene, nats: NatsServer, tmp_path: Path
) -> None:
    """It reports for each decision what it would do, and the other actuator still applies every decision."""
    decider = Decider(scene.bus, scene.server.namespace)
    with (
        ActuatorProcess(tmp_path / "live", nats.url, scene.server) as live,
        ActuatorProcess(tmp_path / "dry", nats.url, scene.server, dry_run=True) as dry,
    ):
        await live.is_ready()
        await dry.is_ready()
        for limit in ("20M", "40M", "8M", "30M", "6M"):
            await decider.publish_limit(limit)
            await scene.wait_for_limits(limit, [str(Rate(Rate.parse(limit) // 2))] * 2)


async def test_duplicated_and_reordered_decisions(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """Late, duplicated and reordered decisions: no older limit replaces a newer one, and the newest stays."""
    decider = Decider(scene.bus, scene.server.namespace)
    chance = random.Random(7)
    start = time.time_ns()
    decisions = [decider.decision({"app": 20_000 + n}, end=start + n * 1_000_000) for n in range(200)]
    stream = [one for one in decisions for _ in range(2)]
    chance.shuffle(stream)
    async with follow_trail(scene.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            await process.is_ready()
            for number, decision in enumerate(stream):
                # Each has a new id, so that the bus does not drop it as a duplicate.
                subject = scene.bus.subjects.decision(DOMAIN)
                await scene.bus.publish(subject, decision, msg_id=f"{decision.id}:{number}")
            await scene.wait_for_limits("20199k", ["10099k"] * 2)
            refused = process.metric("sluice_decisions_refused_total")
            verdict = await scene.judge(trail)
    assert refused['reason="overtaken"'] > 100
    tried = f"{len(stream)} decisions, {verdict.writes} writes"
    tally.add("duplicated and reordered delivery", tried, judge(verdict))


async def test_adversarial_decisions(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """Among thousands of forged and broken decisions the bounds hold, and the next valid decision is applied."""
    decider = Decider(scene.bus, scene.server.namespace)
    chance = random.Random(11)
    target = f"{scene.server.namespace}/app"
    subject, stream = scene.bus.subjects.decision(DOMAIN), scene.bus.subjects.stream("decision")
    async with follow_trail(scene.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            await process.is_ready()
            for block in range(0, FORGED, 100):
                forged = [forgery(chance, target, block + number) for number in range(100)]
                # As a forger would: without the checks that a service's own messages pass.
                await asyncio.gather(
                    *(
                        scene.bus._store(
                            subject, encode(one), {envelope.MSG_ID: one.sample, envelope.EXPECTED_STREAM: stream}
                        )
                        for one in forged
                    )
                )
            await decider.publish_limit("42M", end=time.time_ns() + 8 * S)
            # It comes after ten thousand others.
            await scene.wait_for_limits("42M", ["21M"] * 2, patience_s=10 * PATIENCE_S)
            verdict = await scene.judge(trail)
    tried = f"{FORGED} decisions, {verdict.writes} writes"
    tally.add("malformed and adversarial messages", tried, judge(verdict))


def forgery(chance: random.Random, target: str, number: int) -> Decision:
    """A decision that is well-formed and wrong: limits, times, targets and counts beyond all bounds."""
    now, huge = time.time_ns(), 2**63 - 1
    limit = chance.choice((huge, -huge, 0, 1, 10**12, chance.randrange(10**6)))
    end = chance.choice((now, now - 10 * S, now + 5 * S, now + 3600 * S, 0, -1, huge, now + number))
    parts = tuple(
        TargetDecision(chance.choice((target, target, "x/y", "", "a/b/c")), limit, limit, "none", 0)
        for _ in range(chance.choice((0, 1, 1, 2, 5)))
    )
    state = State(chance.choice((now, huge, 0)), chance.choice((1, huge)), end, {}, "forged/1")
    expires = chance.choice((end + 60 * S if end < huge else huge, huge, 0))
    return Decision(DOMAIN, f"forged:{number}", end, expires, parts, "forged", state, "forged/1", 0.5)


async def test_a_wiped_bus(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """The bus loses everything and restarts at sequence 1: the next decision is applied and reported."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await process.is_ready()
        for limit in ("60M", "50M", "55M"):
            await decider.publish_limit(limit)
        await scene.wait_for_limits("55M", ["27500k"] * 2)
        await eventually(lambda: nothing_pending(process))
        async with follow_trail(scene.server) as trail:

            async def followed_up() -> bool:
                return len(trail.marks) == 3

            await eventually(followed_up)
            trail.marks.clear()  # earlier reports are lost with the bus
            nats.stop()
            nats.wipe()
            nats.start()
            again = Decider(scene.bus, scene.server.namespace)
            decision = await again.publish_limit("45M")
            assert decision.seq == 1
            await scene.wait_for_limits("45M", ["22500k"] * 2)
            (action,) = await scene.wait_for_reports(decision=decision.id)
            assert action.outcome == "applied"
            verdict = await scene.judge(trail)
    tally.add("nats-server wiped", f"1 wipes, {verdict.writes} writes", judge(verdict))


async def nothing_pending(process: ActuatorProcess) -> bool:
    """Whether the bus has every report."""
    return process.metric("sluice_reports_pending ") == {"": 0.0}


async def test_a_decision_on_another_subject_is_put_aside(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A decision that names one domain on the subject of another changes nothing."""
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await process.is_ready()
        decision = decider.decision({"app": "80M"})
        await scene.bus.publish(scene.bus.subjects.decision("other"), decision, msg_id="misplaced")
        await decider.publish_limit("20M")
        await scene.wait_for_limits("20M", ["10M"] * 2)
        dead = process.metric("sluice_dead_letters_total")
    assert sum(dead.values()) == 1
    assert {json.dumps(one.limit) for one in await scene.actions() if one.cause == "decision"} == {"20000"}


async def test_a_server_that_forgets(nats: NatsServer, tmp_path: Path) -> None:
    """Watches that the server cannot continue (410) start again, and no change is missed."""
    emulator = Emulator(starts_after=None)
    async with servers.emulate(emulator) as server, join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        await server.deploy(replicas=2)
        await server.pods_of("app", 2)
        decider = Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server) as process:
            await process.is_ready()
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["30M"] * 2)
            for replicas, share in ((3, "20M"), (1, "60M"), (4, "15M")):
                emulator.scale(f"{server.namespace}/app", replicas)
                emulator.objects.compact()
                await scene.wait_for_limits("60M", [share] * replicas)
            await process.is_ready()


async def test_memory_after_many_messages(nats: NatsServer, tmp_path: Path) -> None:
    """Resident memory after 50,000 decisions stays below 80 MiB."""
    async with servers.emulate(Emulator(starts_after=None)) as server, join(nats.url, "sluice") as bus:
        scene = Scene(server, bus)
        await server.deploy(replicas=2)
        await server.pods_of("app", 2)
        decider = Decider(bus, server.namespace)
        with ActuatorProcess(tmp_path, nats.url, server) as process:
            await process.is_ready()
            first = process.resident_mib
            start = time.time_ns() - 50_000 * 100_000
            for block in range(500):
                ends = [start + (block * 100 + number) * 100_000 for number in range(100)]
                decisions = [decider.decision({"app": 20_000 + end // 100_000 % 7}, end=end) for end in ends]
                await asyncio.gather(*(decider.publish(one) for one in decisions))
                decider.published.clear()
            newest = await decider.publish_limit("33M")
            await scene.wait_for_limits("33M", ["16500k"] * 2, patience_s=10 * PATIENCE_S)
            await scene.wait_for_reports(decision=newest.id)
            last = process.resident_mib
    print(f"{first:.1f} MiB ready, {last:.1f} MiB after 50,000 decisions")
    assert last < 80
