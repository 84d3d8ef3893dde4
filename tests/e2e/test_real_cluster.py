"""The whole product on a real API server and real packets, from ``kubectl apply`` to ``sluice restore``."""

import asyncio
import json
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from msgspec import Struct

from schemas.units import Rate
from services.actuator.ownership import KEY
from services.plant.topology import SCANNER
from tests.support.actuators import Decider
from tests.support.commands import sluice
from tests.support.kube.real_cluster import APPS, FIRST, SECOND, TARGETS, Stage, bandwidth, start_stage
from tests.support.kube.servers import BANDWIDTH, eventually

pytestmark = [pytest.mark.root, pytest.mark.apiserver]

CHANGES = 100
INITIAL = "20M"
"""The fail-safe limit in telemetry-upload's template."""


class Identity(Struct, frozen=True):
    """The properties of a Deployment that must not change with its limit."""

    replica_sets: frozenset[str]
    pods: frozenset[str]
    hashes: frozenset[str]
    template: str
    revision: str

    @classmethod
    def of(cls, stage: Stage, name: str) -> "Identity":
        """Read them from the API."""
        sets, pods, deployment = stage.items("apis/apps/v1/replicasets", name), stage.pods(name), stage.deployment(name)
        return cls(
            frozenset(tree["metadata"]["uid"] for tree in sets),
            frozenset(tree["metadata"]["uid"] for tree in pods),
            frozenset(tree["metadata"]["labels"]["pod-template-hash"] for tree in [*sets, *pods]),
            json.dumps(deployment["spec"]["template"], sort_keys=True),
            deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        )


def annotations(stage: Stage) -> dict[str, dict[str, str]]:
    """The annotations of both targets' Deployments and Pods, by name."""
    trees = [stage.deployment(name) for name in TARGETS.values()]
    trees += [pod for name in TARGETS.values() for pod in stage.pods(name)]
    return {tree["metadata"]["name"]: dict(tree["metadata"].get("annotations") or {}) for tree in trees}


async def test_the_product_on_a_real_cluster(tmp_path: Path) -> None:
    """Manifests applied, three services with their own tokens under RBAC, real packets.

    The limit follows latency.  Nothing restarts.  A new pod is limited before it runs.  A foreign value is not
    overwritten.  Restore leaves no trace.
    """
    began = time.monotonic()
    async with start_stage(tmp_path) as stage:
        print(f"up after {time.monotonic() - began:.1f} s")
        identities = {name: Identity.of(stage, name) for name in TARGETS.values()}
        await check_limit_follows_latency(stage)
        stage.services["decision"].stop()
        async with stage.bus("decision") as bus:
            decider = Decider(bus, "factory", "factory")
            await check_hundred_changes(stage, decider)
            assert {name: Identity.of(stage, name) for name in TARGETS.values()} == identities
            await check_new_pod_is_limited(stage, decider)
            await check_foreign_value_is_kept(stage, decider)
        await check_restore(stage)
        assert Identity.of(stage, "erp-dashboard") == identities["erp-dashboard"]
        assert "Forbidden" not in stage.services["actuator"].log
        assert len(stage.kubelets.now()) == 8, "seven Pods and the one that scale-up added: none was replaced"
        seen = [one for one in stage.kubelets.history if one.app in TARGETS.values()]
        assert None not in {one.bandwidth for one in seen}, "no Pod was ever without a limit"
        print(f"{len(seen)} states of best-effort Pods seen, unlimited 0; all in {time.monotonic() - began:.0f} s")


async def check_limit_follows_latency(stage: Stage) -> None:
    """The services raise the limit, cut it on the qdisc during a congestion, and raise it again."""
    born = int(Rate.parse(INITIAL))
    await stage.until(lambda: stage.in_force() > 1.1 * born, "the limit is raised above what the Pod was born with")
    scanner = next(one.load for one in APPS.critical if one.workload == SCANNER)
    stage.plant.take_crossings()
    high = stage.in_force()
    stage.plant.set_load(SCANNER, round(2.2 * scanner))
    await stage.until(lambda: bool(stage.plant.take_crossings()), "latency crosses the SLO under the scanner's load")
    await stage.until(lambda: (stage.qdisc() or high) < 0.75 * high, "the limit is cut on the qdisc")
    low = stage.in_force()
    stage.plant.set_load(SCANNER, scanner)
    await stage.until(lambda: stage.in_force() > 1.3 * low, "it is raised again")

    def agrees() -> bool:
        annotation = bandwidth(stage.pods()[0]) or "0"
        return int(Rate.parse(annotation)) == stage.qdisc()

    await stage.until(agrees, "annotation and qdisc say the same")
    actions = [one for one in await stage.actions() if one.target == "factory/telemetry-upload"]
    cuts = [one for one in actions if one.cause == "decision" and one.was is not None and one.limit < one.was]
    deepest = max(cuts, key=lambda one: (one.was or 0) - one.limit)
    print(
        f"limit in force: born {born}, before the load {high}, congested {low}, after it {stage.in_force()} kbit/s; "
        f"why it was cut: {deepest.reason}; {len(actions)} reports"
    )


def in_force(stage: Stage, limit: int) -> bool:
    """Whether the agent enforces the limit."""
    return stage.plant.limits[FIRST] == limit


async def check_hundred_changes(stage: Stage, decider: Decider) -> None:
    """A hundred decisions in a row, each followed from the bus to the qdisc."""
    took = []
    for limit in islice(cycle((22_000, 9_000, 16_000, 12_500, 19_000)), CHANGES):
        began = time.monotonic()
        await decider.publish(decider.decision({"telemetry-upload": limit, "erp-dashboard": 5_000}))
        await stage.until(partial(in_force, stage, limit), f"{limit} kbit/s in force")
        took.append(time.monotonic() - began)
    assert stage.qdisc() == 19_000
    applied = [one for one in await stage.actions() if one.outcome == "applied" and one.cause == "decision"]
    assert len(applied) >= CHANGES
    print(f"{CHANGES} changes, decision to qdisc: median {median(took) * 1e3:.0f} ms, worst {max(took) * 1e3:.0f} ms")


async def check_new_pod_is_limited(stage: Stage, decider: Decider) -> None:
    """Scale-up: the Pod is held Pending until it has its share, on the API and on its own device."""
    await decider.publish(decider.decision({"telemetry-upload": 24_000, "erp-dashboard": 5_000}))
    await stage.until(lambda: stage.plant.limits[FIRST] == 24_000, "24M in force")
    stage.kubelets.open.clear()
    stage.kubelets.on_start = lambda _: stage.plant.start(SECOND)
    old = {one["metadata"]["uid"] for one in stage.pods()}
    stage.kubectl("-n", "factory", "scale", "deployment", "telemetry-upload", "--replicas=2")

    def limited() -> bool:
        fresh = [one for one in stage.kubelets.now().values() if one.app == "telemetry-upload" and one.uid not in old]
        return bool(fresh) and fresh[0].recorded and fresh[0].bandwidth == "12M"

    await stage.until(limited, "the new Pod carries its half")
    await stage.until(lambda: stage.plant.limits == {**stage.plant.limits, FIRST: 12_000, SECOND: 12_000}, "halves")
    assert stage.qdisc(SECOND) == 12_000
    (pod,) = [one for one in stage.pods() if one["metadata"]["uid"] not in old]
    assert (pod["status"]["phase"], pod["spec"].get("nodeName")) == ("Pending", None)
    stage.kubelets.open.set()
    await stage.until(lambda: stage.plant.read_counters().sent[SECOND] > 100_000, "the new pod sends")
    (first, *_, last) = [one for one in stage.kubelets.history if one.uid == pod["metadata"]["uid"]]
    assert (first.bandwidth, first.phase) == (INITIAL, "Pending")
    assert (last.bandwidth, last.phase) == ("12M", "Running")
    assert all(one.recorded for one in stage.kubelets.history if one.uid == last.uid and one.phase == "Running")


async def check_foreign_value_is_kept(stage: Stage, decider: Decider) -> None:
    """A foreign value of 7M gives an Event, a report and a note; only the other target's limit still changes."""
    stage.kubectl("-n", "factory", "annotate", "deployment", "telemetry-upload", f"{BANDWIDTH}=7M", "--overwrite")
    await stage.until(
        lambda: "factory/telemetry-upload" in stage.ready("actuator").get("notes", {}), "a note on /readyz"
    )
    await stage.until(lambda: "LimitPaused" in reasons(stage), "an Event on the Deployment")
    await decider.publish(decider.decision({"telemetry-upload": 15_000, "erp-dashboard": 6_000}))
    await stage.until(lambda: stage.plant.limits["erp-dashboard-0"] == 6_000, "the other target's limit moves")
    assert bandwidth(stage.deployment("telemetry-upload")) == "7M"
    assert [bandwidth(pod) for pod in stage.pods()] == ["12M", "12M"]
    await wait_for_report(stage, "skipped", "somebody else set")
    note = stage.ready("actuator")["notes"]["factory/telemetry-upload"]
    stage.kubectl(*note.partition("kubectl ")[2].split())
    await stage.until(lambda: [bandwidth(pod) for pod in stage.pods()] == ["7500k", "7500k"], "Sluice's again")
    await stage.until(lambda: "LimitResumed" in reasons(stage), "an Event about it")


async def wait_for_report(stage: Stage, outcome: str, reason: str) -> None:
    """Wait for a report of this kind on the bus."""

    async def there() -> bool:
        return any(one.outcome == outcome and reason in one.reason for one in await stage.actions())

    await eventually(there)


def reasons(stage: Stage) -> set[str]:
    """The reasons of the Events on telemetry-upload."""
    query = "fieldSelector=involvedObject.name%3Dtelemetry-upload"
    events: dict[str, Any] = stage.server.request("GET", f"/api/v1/namespaces/factory/events?{query}")
    return {one["reason"] for one in events["items"]}


async def check_restore(stage: Stage) -> None:
    """Without the actuator, ``sluice restore`` under its rights restores both annotations everywhere."""
    assert stage.services["actuator"].stop() == 0
    before = annotations(stage)
    assert all(KEY in found for found in before.values())
    done = await asyncio.to_thread(
        sluice, "restore", "--config", stage.config_file, environment=stage.identity("actuator")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, found in annotations(stage).items():
        assert KEY not in found, name
        of_pod = name not in TARGETS.values()
        wanted = {"telemetry-upload": INITIAL, "erp-dashboard": "5M"}["-".join(name.split("-")[:2])] if of_pod else None
        assert found.get(BANDWIDTH) == wanted, (name, found)
        assert (
            found.items() >= {key: value for key, value in before[name].items() if key not in (KEY, BANDWIDTH)}.items()
        )
    await stage.until(lambda: stage.qdisc(FIRST) == stage.qdisc(SECOND) == 20_000, "in force again")
    print(done.stdout.strip())
