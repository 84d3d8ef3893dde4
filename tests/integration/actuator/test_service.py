"""The actuator as a process, on a real bus, on the emulator and on a real API server."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import Decision
from services.actuator.ownership import KEY
from services.actuator.restore import restore as restore_target
from services.kube.changes import T
from services.kube.client import KubeClient
from services.kube.objects import Unavailable
from services.runtime.config_loader import load
from tests.support.actuators import ActuatorProcess, Aim, Decider, Scene
from tests.support.commands import sluice
from tests.support.decision_services import join
from tests.support.fault_tally import Tally, judge
from tests.support.kube.servers import BANDWIDTH, Server, eventually
from tests.support.kube.write_trail import follow_trail
from tests.support.nats_server import NatsServer


@pytest.fixture
async def scene(server: Server, nats: NatsServer) -> AsyncIterator[Scene]:
    """A cluster and a bus."""
    async with join(nats.url, "sluice") as bus:
        yield Scene(server, bus)


async def restore(home: Path) -> subprocess.CompletedProcess[str]:
    """``sluice restore`` with the actuator's configuration."""
    return await asyncio.to_thread(sluice, "restore", "--config", home / "config.yaml")


async def test_a_decision_reaches_deployment_and_pods(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The limit is on the Deployment, its share on every Pod, and the report has time and reason."""
    await scene.server.deploy(replicas=3, template={BANDWIDTH: "10M"})
    pods = await scene.server.pods_of("app", 3)
    decider = Decider(scene.bus, scene.server.namespace)
    decision = await decider.publish_limit("60M")
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await scene.wait_for_limits("60M", ["20M"] * 3)
        (action,) = await scene.wait_for_reports(cause="decision", outcome="applied")
        await process.is_ready()
        assert process.stop() == 0
    assert action.decision == decision.id
    assert (action.limit, action.was, action.epoch, action.seq) == (60_000, None, decision.epoch, decision.seq)
    assert {pod.uid for pod in action.pods} == {pod["metadata"]["uid"] for pod in pods}
    assert {(pod.outcome, pod.limit) for pod in action.pods} == {("applied", 20_000)}
    assert action.sampled == decision.end
    assert action.decided is not None
    assert action.applied is not None
    assert action.sampled <= action.decided <= action.applied
    cause = await scene.bus.get_last(Decision, scene.bus.subjects.decision(decision.domain))
    (effect,) = [one for one in await scene.read_reports() if one.message.id == action.id]
    assert cause is not None
    assert effect.headers["traceparent"].split("-")[1] == cause.headers["traceparent"].split("-")[1]


async def test_limits_are_clamped_and_divided(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The actuator's own bounds limit every decision; a per-pod limit is not divided."""
    aims = (Aim(), Aim("each", scope="per-pod"))
    await scene.server.deploy("app", replicas=3)
    await scene.server.deploy("each", replicas=2)
    await scene.server.pods_of("app", 3)
    await scene.server.pods_of("each", 2)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, aims):
        for limit, limits, share in (
            (10**15, "80M", "26666k"),
            (-5, "5M", "1666k"),
            (0, "5M", "1666k"),
            (40_000, "40M", "13333k"),
        ):
            await decider.publish(decider.decision({"app": limit, "each": limit}))
            await scene.wait_for_limits(limits, [share] * 3)
            await scene.wait_for_limits(limits, [limits] * 2, "each")
    for action in await scene.actions():
        assert 5_000 <= action.limit <= 80_000
        assert sum(pod.limit or 0 for pod in action.pods) <= action.limit


async def test_pods_come_and_go(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A Pod created by scale-up is limited at once, and the limit is divided among all Pods again."""
    await scene.server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await scene.server.pods_of("app", 2)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["30M"] * 2)
        await scene.scale(4)
        await scene.wait_for_limits("60M", ["15M"] * 4)

        async def divided() -> bool:
            # A Pod may be seen before the Deployment's new replica count: then the share falls in two steps.
            shares = [pod.limit for action in await scene.wait_for_reports(cause="rescale") for pod in action.pods]
            assert set(shares) <= {20_000, 15_000}
            return 15_000 in shares

        await eventually(divided)

        async def born() -> bool:
            actions = await scene.wait_for_reports(cause="new-pod")
            return len({pod.uid for action in actions for pod in action.pods}) == 2

        await eventually(born)
        await scene.scale(1)
        await scene.wait_for_limits("60M", ["60M"])
        await scene.scale(0)
        await scene.wait_for_limits("60M", [])
        await scene.scale(2)
        await scene.wait_for_limits("60M", ["30M"] * 2)


async def test_drift_is_put_back(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A Pod's annotation that another client changes or removes is corrected, and that is reported."""
    await scene.server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    pods = await scene.server.pods_of("app", 2)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["30M"] * 2)
        for value in ("500M", None):
            await scene.annotate(f"{scene.server.pods}/{pods[0]['metadata']['name']}", {BANDWIDTH: value})
            await scene.wait_for_limits("60M", ["30M"] * 2)
        await scene.annotate(f"{scene.server.deployments}/app", {BANDWIDTH: None})
        await scene.wait_for_limits("60M", ["30M"] * 2)
        drifts = await scene.wait_for_reports(3, cause="drift", outcome="applied")
    assert [pod.uid for pod in drifts[0].pods] == [pods[0]["metadata"]["uid"]]
    assert "500M" in drifts[0].reason


async def test_a_foreign_value_pauses_the_target(scene: Scene, nats: NatsServer, tmp_path: Path, tally: Tally) -> None:
    """A foreign value on the Deployment stays, is reported in every way, and its removal resumes the target."""
    await scene.server.deploy(replicas=1, template={BANDWIDTH: "10M"})
    await scene.server.pods_of("app", 1)
    path = f"{scene.server.deployments}/app"
    key = f"{scene.server.namespace}/app"
    decider = Decider(scene.bus, scene.server.namespace)
    async with follow_trail(scene.server) as trail:
        with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
            await decider.publish_limit("60M")
            await scene.wait_for_limits("60M", ["60M"])
            await scene.annotate(path, {BANDWIDTH: "33M"})
            (skipped,) = await scene.wait_for_reports(outcome="skipped")
            await decider.publish_limit("20M")
            await decider.publish_limit("25M")
            assert "somebody else set" in skipped.reason
            assert f"kubectl -n {scene.server.namespace} annotate deployment app {BANDWIDTH}-" in skipped.reason
            ready, page = process.ready()
            assert ready
            assert "33M" in page["notes"][key]
            assert process.metric("sluice_target_paused") == {f'target="{key}"': 1.0}
            await scene.wait_for_limits("33M", ["60M"])
            await scene.annotate(path, {BANDWIDTH: None})
            await scene.wait_for_limits("25M", ["25M"])
            assert "notes" not in process.ready()[1]
            query = "fieldSelector=involvedObject.name%3Dapp"
            events = (await scene.server.must("GET", f"/api/v1/namespaces/{scene.server.namespace}/events?{query}"))[
                "items"
            ]
            assert {"LimitPaused", "LimitResumed"} <= {event["reason"] for event in events}
            verdict = await scene.judge(trail)
    tally.add("foreign owner", f"1 foreign values, {verdict.writes} writes", judge(verdict))


async def test_the_original_value_is_remembered(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A value from before Sluice does not pause the target, and restore puts it back."""
    await scene.server.deploy(replicas=2, own={BANDWIDTH: "44M", "team": "x"}, template={BANDWIDTH: "10M"})
    pods = await scene.server.pods_of("app", 2)
    before = await scene.server.must("GET", f"{scene.server.deployments}/app")
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["30M"] * 2)
        await scene.scale(3)
        await scene.wait_for_limits("60M", ["20M"] * 3)
        assert process.stop() == 0
    done = await restore(tmp_path)
    assert done.returncode == 0, done.stderr
    await scene.wait_for_limits("44M", ["10M"] * 3)
    after = await scene.server.must("GET", f"{scene.server.deployments}/app")
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert all(record is None for record in (await scene.records()).values())
    assert "Deployment app: 60M -> 44M" in done.stdout
    assert {pod["metadata"]["uid"] for pod in pods} <= {
        pod["metadata"]["uid"] for pod in await scene.server.pods_of("app", 3)
    }
    (action,) = await scene.wait_for_reports(cause="restore")
    assert (action.outcome, action.was, action.limit, len(action.pods)) == ("applied", 60_000, 44_000, 3)
    again = await restore(tmp_path)
    assert "nothing of Sluice's on it" in again.stdout


async def test_restore_without_a_bus_leaves_what_others_set(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """Restore needs no bus.  An annotation that did not exist before is removed; one set by another client stays."""
    await scene.server.deploy("app", replicas=1)
    await scene.server.deploy("two", replicas=1)
    (pod,) = await scene.server.pods_of("app", 1)
    await scene.server.pods_of("two", 1)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, (Aim(), Aim("two"))) as process:
        await decider.publish(decider.decision({"app": "60M", "two": "60M"}))
        await scene.wait_for_limits("60M", ["60M"])
        await scene.wait_for_limits("60M", ["60M"], "two")
        assert process.stop() == 0
    await scene.annotate(f"{scene.server.deployments}/app", {BANDWIDTH: "7M"})
    nats.stop()
    done = await restore(tmp_path)
    nats.start()
    assert done.returncode == 0, done.stderr
    assert "not reported" in done.stderr
    assert "7M was set by somebody else and stays" in done.stdout
    await scene.wait_for_limits("7M", [None])
    await scene.wait_for_limits(None, [None], "two")
    tree = await scene.server.must("GET", f"{scene.server.pods}/{pod['metadata']['name']}")
    assert not tree["metadata"].get("annotations")


class CutShort:
    """A client that loses the API server after some patches."""

    def __init__(self, client: KubeClient, patches: int) -> None:
        """Allow so many patches."""
        self.read, self.list_by_labels = client.read, client.list_by_labels
        self.read_json, self.fetch, self.delete = client.read_json, client.fetch, client.delete
        self._client = client
        self._left = patches

    async def patch(self, obj: T, operations: list[dict[str, Any]]) -> T:
        """Patch until none is left."""
        if self._left == 0:
            raise Unavailable("connection refused")
        self._left -= 1
        return await self._client.patch(obj, operations)


async def test_a_restore_that_was_cut_short_is_finished_by_the_next(
    scene: Scene, nats: NatsServer, tmp_path: Path
) -> None:
    """The API server fails after the Deployment, then after one Pod: the records on the objects suffice to finish."""
    await scene.server.deploy(replicas=3, own={BANDWIDTH: "44M"}, template={BANDWIDTH: "10M"})
    await scene.server.pods_of("app", 3)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server) as process:
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["20M"] * 3)
        assert process.stop() == 0
    (domain,) = load(tmp_path / "config.yaml", {}).domains
    async with KubeClient.connect(scene.server.config) as client:
        for limits in (["20M"] * 3, ["10M", "20M", "20M"]):
            results = await restore_target(CutShort(client, 1), domain.targets[0], dry_run=False)
            assert sum(one.outcome == "applied" for one in results) == 1
            assert any(one.outcome == "failed" for one in results)
            await scene.wait_for_limits("44M", limits)
    done = await restore(tmp_path)
    assert done.returncode == 0, done.stderr
    await scene.wait_for_limits("44M", ["10M"] * 3)
    assert all(record is None for record in (await scene.records()).values())


async def test_a_running_actuator_leaves_a_restored_target_alone(
    scene: Scene, nats: NatsServer, tmp_path: Path
) -> None:
    """After restore the target is paused, until a person resumes it or the actuator restarts."""
    await scene.server.deploy(replicas=1)
    await scene.server.pods_of("app", 1)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["60M"])
        assert (await restore(tmp_path)).returncode == 0
        (skipped,) = await scene.wait_for_reports(outcome="skipped")
        assert f"annotate deployment app {KEY}='{{}}' --overwrite" in skipped.reason
        await decider.publish_limit("50M")
        await scene.wait_for_limits(None, [None])
        await scene.annotate(f"{scene.server.deployments}/app", {KEY: "{}"})
        await scene.wait_for_limits("50M", ["50M"])


async def test_an_unreadable_record_is_not_overrun(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A record that this build cannot read pauses the target; restore reports it and fails."""
    await scene.server.deploy(replicas=0, own={KEY: '{"v": 1}', BANDWIDTH: "44M"})
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        (skipped,) = await scene.wait_for_reports(outcome="skipped")
        assert "cannot be read" in skipped.reason
        assert await scene.bandwidth() == "44M"
    done = await restore(tmp_path)
    assert done.returncode == 1
    assert "left as it is" in done.stdout


async def test_dry_run_patches_nothing(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """The intended patches are reported once, and nothing is changed."""
    await scene.server.deploy(replicas=2, template={BANDWIDTH: "10M"})
    await scene.server.pods_of("app", 2)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, dry_run=True):
        await decider.publish_limit("60M")
        (action,) = await scene.wait_for_reports(cause="decision")
        assert {pod.outcome for pod in action.pods} == {"dry-run"}
        assert action.outcome == "dry-run"
        await scene.wait_for_limits(None, ["10M"] * 2)
        assert set((await scene.records()).values()) == {None}


async def test_a_hundred_changes_restart_nothing(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """Pods, ReplicaSet and template are the same after a hundred changed limits; every patch is reported."""
    await scene.server.deploy(replicas=3, template={BANDWIDTH: "10M"})
    pods = {pod["metadata"]["uid"]: pod["metadata"]["labels"] for pod in await scene.server.pods_of("app", 3)}
    before = await scene.server.must("GET", f"{scene.server.deployments}/app")
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        for number in range(100):
            await decider.publish_limit(20_000 + 300 * (number * 37 % 100))
            await scene.wait_for_reports(number + 1, cause="decision", outcome="applied")
    after = await scene.server.must("GET", f"{scene.server.deployments}/app")
    assert after["spec"] == before["spec"]
    assert {pod["metadata"]["uid"]: pod["metadata"]["labels"] for pod in await scene.server.pods_of("app", 3)} == pods
    actions = await scene.actions()
    applied = [one for one in actions if one.cause == "decision"]
    assert [one.decision for one in applied] == [one.id for one in decider.published]
    assert all(len(one.pods) == 3 for one in applied)


async def test_a_paused_or_missing_target_holds_up_no_other(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """A missing Deployment keeps the actuator unready and is named; the other targets are served."""
    aims = (Aim("nowhere"), Aim("app"))
    await scene.server.deploy(replicas=1)
    await scene.server.pods_of("app", 1)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server, aims) as process:
        await decider.publish(decider.decision({"nowhere": "60M", "app": "60M", "unknown": "1M"}))
        await scene.wait_for_limits("60M", ["60M"])
        ready, page = process.ready()
        assert not ready
        assert page["wrong"] == {f"{scene.server.namespace}/nowhere": "there is no such Deployment"}
        await scene.server.deploy("nowhere", replicas=1)
        await scene.wait_for_limits("60M", ["60M"], "nowhere")
        await process.is_ready()


async def test_the_content_of_the_record(scene: Scene, nats: NatsServer, tmp_path: Path) -> None:
    """Our own annotation names the action, the decision and the original value, in a few hundred bytes."""
    await scene.server.deploy(replicas=1, own={BANDWIDTH: "44M"}, template={BANDWIDTH: "10M"})
    await scene.server.pods_of("app", 1)
    decider = Decider(scene.bus, scene.server.namespace)
    with ActuatorProcess(tmp_path, nats.url, scene.server):
        decision = await decider.publish_limit("60M")
        await scene.wait_for_limits("60M", ["60M"])
        (action,) = await scene.wait_for_reports(cause="decision")
    records = await scene.records()
    main = json.loads(records.pop("app") or "")
    (pod,) = (json.loads(text or "") for text in records.values())
    assert (main["found"], pod["found"]) == ("44M", "10M")
    for record in (main, pod):
        assert record["action"] == action.id
        assert (record["decision"], record["end"], record["value"]) == (decision.id, decision.end, "60M")
        assert len(json.dumps(record)) < 700
