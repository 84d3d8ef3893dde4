"""`sluice check --cluster` asks whether the accounts of actuator and meter have the rights that the domains need."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from aiohttp import web
from msgspec.structs import replace

from schemas.config import Config, Kubernetes, Resources
from schemas.domain import Critical, Domain, Enrolment, Target
from schemas.units import Rate
from schemas.workloads import LabelSelector
from services.kube.client import KubeClient
from services.plant.kube_emulator.emulator import Emulator
from services.tools.check.cluster_rules import Finding, MeterObjects
from services.tools.check.rights import check_rights
from tests.integration.actuator.test_refusals import open_proxy, refusal
from tests.support.kube import servers
from tests.support.kube.apiserver import ApiServer
from tests.support.kube.manifests import MANIFESTS

BOUNDS: dict[str, Any] = {"min": Rate(1000), "max": Rate(9000), "fail_safe": Rate(2000)}
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ACCOUNT = "serviceaccount sluice/sluice-actuator"
COMPONENTS = ("workloads", "rollouts", "selectors", "per-label")
RIGHTS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{}s"


def aim(namespace: str) -> Domain:
    """A domain with targets of most kinds, workloads that join, and an instance for each zone."""
    named = {"StatefulSet": "db", "DaemonSet": "logs", "CronJob": "nightly", "Rollout": "shop"}
    targets = [
        Target(deployment="app", namespace=namespace, **BOUNDS),
        *(Target(kind=kind, name=name, namespace=namespace, **BOUNDS) for kind, name in named.items()),
        Target(name="hogs", selector=LabelSelector(match_labels={"a": "b"}), namespace=namespace, **BOUNDS),
    ]
    return Domain(
        "line",
        (Critical("robot", namespace),),
        tuple(targets),
        enrol=Enrolment(namespaces=(namespace,), kinds=("Deployment", "Job"), **BOUNDS),
        per="topology.kubernetes.io/zone",
    )


class Authoriser:
    """Answers reviews by the rules of Roles, as an API server does; all else is the emulator's."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        """Allow what these rules allow, anywhere."""
        self.rules = list(rules)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: web.Request, body: bytes) -> web.Response | None:
        """Answer what is about accounts."""
        if "/serviceaccounts/" in request.path:
            return web.json_response({"metadata": {"name": request.path.rpartition("/")[2]}})
        if request.path != REVIEWS:
            return None
        asked = json.loads(body)["spec"]
        assert asked["groups"][1] == f"system:serviceaccounts:{asked['user'].split(':')[2]}"
        wanted = asked["resourceAttributes"]
        self.asked.append(wanted)
        resource = "/".join(filter(None, (wanted["resource"], wanted["subresource"])))
        allowed = any(
            wanted["group"] in rule["apiGroups"]
            and resource in rule["resources"]
            and wanted["verb"] in rule["verbs"]
            and ("resourceNames" not in rule or wanted["name"] in rule["resourceNames"])
            for rule in self.rules
        )
        return web.json_response({"status": {"allowed": allowed}}, status=201)


def rules_of(*files: str) -> Iterator[dict[str, Any]]:
    """The rules of the Roles in these manifests."""
    for file in files:
        for tree in yaml.safe_load_all((MANIFESTS / file).read_text(encoding="utf-8")):
            yield from tree.get("rules") or ()


ALL = list(rules_of("ml_controller_rbac.yaml", *(f"components/{one}/rights.yaml" for one in COMPONENTS)))


async def found_by(answer: Any, domain: Domain | None = None, **settings: Any) -> list[Finding]:
    """The findings where something answers in front of an emulator."""
    async with servers.emulate(Emulator(starts_after=None)) as server, open_proxy(server.url) as (proxy, url):
        proxy.answer = answer
        kubernetes = Kubernetes(server=url, **settings)
        config = Config((domain or aim(server.namespace),), kubernetes=kubernetes)
        async with KubeClient.connect(kubernetes) as api:
            return await check_rights(api, config, None)


async def test_the_manifests_rights_are_what_is_asked_for() -> None:
    """With the components of its kinds nothing is missing; each right is asked for once."""
    authoriser = Authoriser(*ALL)
    assert await found_by(authoriser) == []
    assert len(authoriser.asked) == len({json.dumps(one, sort_keys=True) for one in authoriser.asked})


@pytest.mark.parametrize(
    ("resource", "verb", "purpose", "remedy"),
    [
        ("statefulsets.apps", "watch", "/statefulset/db", "workloads"),
        ("daemonsets.apps", "list", "/daemonset/logs", "workloads"),
        ("cronjobs.batch", "patch", "/cronjob/nightly", "workloads"),
        ("jobs.batch", "get", "/cronjob/nightly, Jobs that would join line", "workloads"),
        ("jobs.batch", "list", "Jobs that would join line", "workloads"),
        ("rollouts.argoproj.io", "list", "/rollout/shop", "rollouts"),
        ("leases.coordination.k8s.io", "create", "/selector/hogs", "selectors"),
        ("nodes", "watch", "instances of line", "per-label"),
        ("pods", "list", ", ...", ""),
        ("events", "create", ", ...", ""),
    ],
)
async def test_a_right_that_is_missing_is_named(resource: str, verb: str, purpose: str, remedy: str) -> None:
    """With the kind, the place, who needs it, and the manifest that grants it."""
    plural = resource.partition(".")[0]

    def without(rule: dict[str, Any]) -> dict[str, Any]:
        concerned = plural in rule["resources"]
        return rule | {"verbs": [one for one in rule["verbs"] if not concerned or one != verb]}

    # Other resources of the same rule keep the verb.
    apart = [rule | {"resources": [one]} for rule in ALL for one in rule["resources"]]
    (found,) = await found_by(Authoriser(*map(without, apart)))
    assert found.where == ACCOUNT
    assert found.level == ("warning" if resource == "events" else "error")
    place = "the cluster" if resource == "nodes" else "namespace "
    assert found.what.startswith(f"may not {verb} {resource} in {place}")
    where = f"components/{remedy}" if remedy else "manifests/ml_controller_rbac.yaml"
    assert f"{purpose}: {where} has the " in found.what


async def test_leases_and_all_rights_of_a_kind_are_one_finding() -> None:
    """Nothing is granted: a finding for each resource, with all of its verbs; the Lease of each shard by its name."""
    found = await found_by(Authoriser(), lease="sluice/actuators", shards=2)
    texts = [one.what for one in found]
    assert sum("may not get, list, watch, patch deployments.apps" in one for one in texts) == 1
    assert [one.partition(" in ")[0] for one in texts if "actuators" in one] == [
        "may not get, patch leases.coordination.k8s.io actuators-0",
        "may not get, patch leases.coordination.k8s.io actuators-1",
    ]
    assert len(texts) == len(set(texts))


async def test_a_missing_right_to_ask_is_reported() -> None:
    """A user without the right to review others' access gets one warning, and the rest of the check."""

    def answer(request: web.Request, body: bytes) -> web.Response | None:
        if request.path == REVIEWS:
            return refusal(403, "subjectaccessreviews is forbidden")
        return Authoriser()(request, body)

    (finding,) = await found_by(answer)
    assert finding.level == "warning"
    assert "they could not be asked for" in finding.what
    assert "subjectaccessreviews is forbidden" in finding.what


async def test_before_the_install_nothing_is_asked() -> None:
    """No account: no question."""

    def answer(request: web.Request, _body: bytes) -> web.Response | None:
        return refusal(404, "not found") if "/serviceaccounts/" in request.path else None

    assert await found_by(answer) == []


@pytest.mark.parametrize(
    ("kubelet", "endpoints", "missing"),
    [
        (False, False, ["list, watch pods"]),
        (True, False, ["list, watch pods", "get nodes/metrics"]),
        (False, True, ["list, watch pods", "get ciliumendpoints.cilium.io"]),
    ],
)
async def test_the_meters_account_is_asked_about(kubelet: bool, endpoints: bool, missing: list[str]) -> None:
    """In the way in which it is installed; without it only throughput is missing, so these are warnings."""
    env = [{"name": "SLUICE_METER_KUBELET", "value": "unverified"}] if kubelet else []
    spec = {"serviceAccountName": "sluice-meter", "containers": [{"env": env}]}
    meter = MeterObjects("sluice-meter/sluice-meter", {"spec": {"template": {"spec": spec}}}, endpoints=endpoints)

    def answer(request: web.Request, body: bytes) -> web.Response | None:
        is_ours = "sluice-actuator" in request.path
        return refusal(404, "not found") if is_ours else Authoriser()(request, body)

    async with servers.emulate(Emulator(starts_after=None)) as server, open_proxy(server.url) as (proxy, url):
        proxy.answer = answer
        config = Config((aim(server.namespace),), kubernetes=Kubernetes(server=url))
        async with KubeClient.connect(config.kubernetes) as api:
            found = await check_rights(api, config, meter)
    assert [(one.level, one.where) for one in found] == [("warning", "serviceaccount sluice-meter/sluice-meter")] * len(
        missing
    )
    assert [one.what.removeprefix("may not ").partition(" in the cluster")[0] for one in found] == missing


@pytest.mark.apiserver
async def test_a_real_server_is_asked_about_the_actuators_account(apiserver: ApiServer) -> None:
    """With the manifests' Role, bound to the account, only the kinds of other components are missing."""
    async with servers.real(apiserver) as server, KubeClient.connect(server.config) as client:
        accounts = "/api/v1/namespaces/sluice/serviceaccounts"
        await server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "sluice"}})
        made, _ = await server.request("POST", accounts, {"metadata": {"name": "sluice-actuator"}})
        domain = aim(server.namespace)
        config = Config((replace(domain, enrol=None, per="node"),), kubernetes=server.config)
        config = replace(config, kubernetes=replace(server.config, resources=Resources(enabled=False)))
        try:
            before = await check_rights(client, config, None)
            text = (MANIFESTS / "ml_controller_rbac.yaml").read_text(encoding="utf-8")
            for tree in yaml.safe_load_all(text):
                if tree["kind"] in ("Role", "RoleBinding"):
                    tree["metadata"]["namespace"] = server.namespace
                    await server.must("POST", RIGHTS.format(server.namespace, tree["kind"].lower()), tree)

            async def granted() -> list[Finding] | None:
                found = await check_rights(client, config, None)
                return found if len(found) < len(before) else None

            after = await servers.eventually(granted)
        finally:
            if made == 201:
                await server.must("DELETE", f"{accounts}/sluice-actuator")
    missing = {one.what.partition(" in ")[0] for one in before} - {one.what.partition(" in ")[0] for one in after}
    assert missing == {
        "may not get, list, watch, patch deployments.apps",
        "may not get, list, watch, patch pods",
        "may not create events",
    }
    assert {re.findall(r"(\w+)\.", one.what)[0] for one in after} >= {"statefulsets", "daemonsets", "cronjobs"}
    assert all("components/" in one.what for one in after)
