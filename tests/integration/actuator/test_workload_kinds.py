"""Every kind of workload as a target, on a real API server with its controllers: a matrix of kinds and rules.

All kinds are in one domain of one actuator.  Each step is done for all, and then looked at for each.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from schemas.domain import Critical, Domain, Shield
from schemas.messages import Action
from schemas.units import Duration
from services.actuator.dependencies import Dependencies
from services.actuator.informer import Informer
from services.actuator.kube_events import EventRecorder
from services.actuator.observed import Watched
from services.actuator.outbox import ActionOutbox
from services.actuator.ownership import KEY
from services.actuator.reconciler import Reconciler
from services.actuator.restore import restore
from services.kube.client import KubeClient
from services.kube.objects import BANDWIDTH, NotFound, Unavailable
from tests.support.kube.servers import MERGE_PATCH, Server, eventually
from tests.support.kube.workload_cases import Case, Workloads
from tests.support.offered_limits import offer_limits

S = 10**9
PAGE = Path(__file__).parents[3] / "docs" / "actuator.md"
RULES = (
    "limited before it runs",
    "cut",
    "raised",
    "new pod, rescaled",
    "drift put back",
    "old decision refused",
    "survives a restart",
    "dead-man",
    "restored without a trace",
    "UIDs and templates unchanged",
)


class Actuator:
    """One actuator in this process, with its decisions and reports in memory."""

    def __init__(self, client: KubeClient, cases: list[Case], process: str) -> None:
        """Act on these targets."""
        self.actions: list[Action] = []
        self.notes: dict[str, str | None] = {}
        self._outbox, self._events = ActionOutbox(), EventRecorder(client)
        shared = Dependencies(
            client=client,
            outbox=self._outbox,
            events=self._events,
            set_note=self.notes.__setitem__,
            set_condition=lambda _what, _why: None,
            process=process,
        )
        targets = tuple(case.target for case in cases)
        domain = Domain(
            "line", (Critical("robot"),), targets, shield=Shield(rise_per_second=1), dead_man=Duration(60 * S)
        )
        self._reconcilers = [Reconciler(domain, target, shared) for target in targets]
        self._informer = Informer(client, lambda _key, _why: None, self.notes.__setitem__)
        for one in self._reconcilers:
            self._informer.add(Watched(one.target, one.observed))

    def decide(self, limit: int, end: int, good_for: int = 600 * S) -> None:
        """Hand a decision to every target."""
        reconcilers = {one.target.key: one for one in self._reconcilers}
        now = time.time_ns()
        offer_limits("line", reconcilers, dict.fromkeys(reconcilers, limit), end, now + good_for, now)

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Actuator"]:
        """Act while the context lasts."""

        async def publish(action: Action, headers: object) -> None:
            self.actions.append(action)

        works = [self._informer.run(), self._events.run(), self._outbox.run(publish)]
        works += [one.run() for one in self._reconcilers]
        running = [asyncio.create_task(work) for work in works]
        for one in self._reconcilers:
            one.resume(None)
        try:
            yield self
        finally:
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


class Matrix:
    """Looks at the objects of all kinds, and notes which rules hold for which."""

    def __init__(self, server: Server, cases: list[Case]) -> None:
        """Nothing holds yet."""
        self._server = server
        self.cases = cases
        self.held: dict[str, set[str]] = {case.row: set() for case in cases}

    async def pods(self, case: Case) -> list[dict[str, Any]]:
        """A case's Pods, unless they are being deleted."""
        found = []
        for place in case.namespaces:
            path = f"/api/v1/namespaces/{place}/pods?labelSelector=app%3D{case.app}"
            found += (await self._server.must("GET", path))["items"]
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    async def lead(self, case: Case) -> Any:
        """The object that carries the record; None where there is none."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{case.namespaces[0]}/leases/sluice-target-{case.target.name}"
        status, tree = await self._server.request("GET", case.lead or path)
        return tree if status == 200 else None

    async def check(self, rule: str, holds: Callable[[Case], Awaitable[bool]]) -> None:
        """Wait until a rule holds for all kinds, and note for which it did; what held before is asked anew."""

        async def ask(case: Case) -> None:
            self.held[case.row].discard(rule)

            async def question() -> bool:
                return await holds(case)

            await eventually(question)
            self.held[case.row].add(rule)

        results = await asyncio.gather(*(ask(case) for case in self.cases), return_exceptions=True)
        others = [one for one in results if isinstance(one, BaseException) and not isinstance(one, AssertionError)]
        assert not others, others

    async def check_limits(self, rule: str, limit: str, share: str, count: int, phase: str = "") -> None:
        """Wait until all objects of all kinds have a limit."""

        async def holds(case: Case) -> bool:
            lead, pods = await self.lead(case), await self.pods(case)
            is_lead = lead is not None and get_bandwidth(lead) == limit
            return (
                is_lead
                and [get_bandwidth(pod) for pod in pods] == [share] * count
                and all(pod["status"]["phase"] == phase for pod in pods if phase)
            )

        await self.check(rule, holds)

    def table(self) -> str:
        """The matrix in Markdown."""
        rows = [f"| | {' | '.join(RULES)} |", f"|---|{'---|' * len(RULES)}"]
        rows += [
            f"| {row} | {' | '.join('yes' if one in held else 'no' for one in RULES)} |"
            for row, held in self.held.items()
        ]
        return "\n".join(rows)


def get_bandwidth(tree: Any) -> str | None:
    """An object's limit."""
    value: str | None = (tree["metadata"].get("annotations") or {}).get(BANDWIDTH)
    return value


def fingerprint(tree: Any) -> Any:
    """What must be the same after a restore; annotations that the API's own controllers set are kept."""
    meta = tree["metadata"]
    template = tree.get("spec", {}).get("template") or tree.get("spec", {}).get("jobTemplate")
    return meta["uid"], meta.get("annotations") or {}, meta.get("labels") or {}, template


async def test_every_rule_holds_for_every_kind(server: Server) -> None:
    """All cells of the matrix say yes; a kind of one's own has a row where the server can have some."""
    other = f"{server.namespace}-b"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    await server.must("POST", "/api/v1/namespaces", body)
    if server.name == "apiserver":
        await eventually(lambda: has_account(server, other))
    matrix = Matrix(server, await Workloads(server, other).make_all())

    async def has_two(case: Case) -> bool:
        return len(await matrix.pods(case)) == 2

    await matrix.check("", has_two)
    leads = {case.row: await matrix.lead(case) for case in matrix.cases}
    before = {case.row: [fingerprint(pod) for pod in await matrix.pods(case)] for case in matrix.cases}
    begin = time.time_ns()
    async with KubeClient.connect(server.config) as client:
        async with Actuator(client, matrix.cases, "first").run() as actuator:
            await change_everything(server, matrix, actuator, begin)
        # The second knows nothing but what the objects carry.
        async with Actuator(client, matrix.cases, "second").run() as actuator:
            await go_on(client, server, matrix, actuator, begin)
        # A patch of the actuator may have been on its way; the command looks again after a second, too.
        await check_restored(client, matrix)

    async def is_same(case: Case) -> bool:
        lead, was = await matrix.lead(case), leads[case.row]
        same = lead is None if was is None else fingerprint(lead) == fingerprint(was)
        now = [fingerprint(pod) for pod in await matrix.pods(case)]
        return same and len(now) == 4 and all(one in now for one in before[case.row])

    await matrix.check("UIDs and templates unchanged", is_same)
    await tidy(server, other)
    assert all(held >= set(RULES) for held in matrix.held.values()), matrix.table()
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line in matrix.table().splitlines()]
    assert len(rows) >= 2 + len(matrix.cases), f"docs/actuator.md lacks some of:\n{matrix.table()}"


async def change_everything(server: Server, matrix: Matrix, actuator: Actuator, begin: int) -> None:
    """Limits before and while Pods run, more Pods, and foreign values."""
    actuator.decide(60_000, begin)
    await matrix.check_limits("limited before it runs", "60M", "30M", 2, "Pending")
    await start_pods(server, matrix)
    actuator.decide(20_000, begin + 1)
    await matrix.check_limits("cut", "20M", "10M", 2, "Running")
    actuator.decide(40_000, begin + 2)
    await matrix.check_limits("raised", "40M", "20M", 2)
    await asyncio.gather(*(case.grow() for case in matrix.cases))
    await matrix.check_limits("new pod, rescaled", "40M", "10M", 4)
    await check_fence(server, matrix, actuator, begin + 1)


async def check_fence(server: Server, matrix: Matrix, actuator: Actuator, end: int) -> None:
    """Offer a decision that is older than the one in force; each target's next write must not be of it."""
    seen = len(actuator.actions)
    actuator.decide(80_000, end)
    for case in matrix.cases:
        meta = (await matrix.pods(case))[0]["metadata"]
        change = {"metadata": {"annotations": {BANDWIDTH: "1G"}}}
        await server.must("PATCH", pod_path(meta), change, MERGE_PATCH)
    await matrix.check_limits("drift put back", "40M", "10M", 4)

    async def was_refused(case: Case) -> bool:
        mine = [one for one in actuator.actions[seen:] if one.target == case.target.key]
        assert {one.limit for one in mine} <= {40_000}, mine
        return any((one.outcome, one.cause) == ("applied", "drift") for one in mine)

    await matrix.check("old decision refused", was_refused)


async def go_on(client: KubeClient, server: Server, matrix: Matrix, actuator: Actuator, begin: int) -> None:
    """What another actuator makes of the objects, the end of its decision, and a restore beside it."""
    actuator.decide(80_000, begin + 1)  # overtaken, which it cannot know before it has read the objects

    async def goes_on(case: Case) -> bool:
        mine = [one for one in actuator.actions if one.target == case.target.key]
        assert all(one.limit == 40_000 for one in mine), mine
        return any((one.outcome, one.cause) == ("unchanged", "decision") for one in mine)

    await matrix.check("survives a restart", goes_on)
    await check_fence(server, matrix, actuator, begin + 1)
    actuator.decide(40_000, begin + 3, good_for=S)
    await matrix.check_limits("dead-man", "10M", "2500k", 4)

    await check_restored(client, matrix)


async def check_restored(client: KubeClient, matrix: Matrix) -> None:
    """Put back what was found, until nothing of Sluice is left."""

    async def is_restored(case: Case) -> bool:
        try:
            results = await restore(client, case.target, dry_run=False)
        except NotFound:
            results = []  # a selector's record goes with the last of its limits
        except Unavailable:
            return False  # the machine is busy
        assert all(one.outcome == "applied" for one in results), results
        carrying = [one for one in (await matrix.lead(case), *await matrix.pods(case)) if one is not None]
        noted = [one["metadata"].get("annotations") or {} for one in carrying]
        return not any(BANDWIDTH in one or KEY in one for one in noted)

    await matrix.check("restored without a trace", is_restored)


async def start_pods(server: Server, matrix: Matrix) -> None:
    """Let all Pods run, as kubelets would."""
    for case in matrix.cases:
        for pod in await matrix.pods(case):
            path = f"{pod_path(pod['metadata'])}/status"
            await server.must("PATCH", path, {"status": {"phase": "Running"}}, MERGE_PATCH)


def pod_path(meta: Any) -> str:
    """The path of a Pod."""
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


async def has_account(server: Server, namespace: str) -> Any:
    """The namespace's default account, without which no Pod can be made."""
    status, answer = await server.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
    return answer if status == 200 else None


async def tidy(server: Server, other: str) -> None:
    """Delete what is not in the test's own namespace."""
    await server.request("DELETE", f"/api/v1/namespaces/{other}")
    for node in (await server.must("GET", f"/api/v1/nodes?labelSelector=matrix%3D{server.namespace}"))["items"]:
        await server.request("DELETE", f"/api/v1/nodes/{node['metadata']['name']}")
