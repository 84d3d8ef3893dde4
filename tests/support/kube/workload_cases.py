"""A workload of each kind for tests: its manifests, and how it gets more Pods, without scheduler and kubelet."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from schemas.domain import Target
from schemas.units import Rate
from schemas.workloads import LabelSelector
from tests.support.kube.servers import MERGE_PATCH, Server, eventually

GROUP = "test.sluice.dev"
_BOUNDS: dict[str, Any] = {"min": Rate(5_000), "max": Rate(80_000), "fail_safe": Rate(10_000)}


class Case(Struct, frozen=True):
    """A target, and what a test does with its objects."""

    row: str
    """What a table calls it."""
    target: Target
    lead: str | None
    """The path of the object that carries the record; None: a Lease of Sluice's."""
    app: str
    """The label ``app`` of its Pods."""
    namespaces: tuple[str, ...]
    grow: Callable[[], Awaitable[object]]
    """Makes four Pods of two."""


def _pods(app: str, **labels: str) -> dict[str, Any]:
    containers = [{"name": "app", "image": "app:1"}]
    return {"metadata": {"labels": {"app": app, **labels}}, "spec": {"containers": containers}}


def _object(kind: str, version: str, name: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def _owned_by(owner: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]


async def can_define(server: Server) -> bool:
    """Whether the server can have kinds of one's own: before 1.22, and built by Go 1.18 or later, it dies of them."""
    if server.name == "emulator":
        return True
    version = await server.must("GET", "/version")
    go = tuple(int(part) for part in version["goVersion"].removeprefix("go").split(".")[:2])
    return go < (1, 18) or int(version["minor"].rstrip("+")) >= 22


async def define(server: Server, group: str, version: str, kind: str, *, has_scale: bool = False) -> None:
    """Define a kind of one's own, unless another test has, and wait until it is served."""
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}}
    served: dict[str, Any] = {"name": version, "served": True, "storage": True, "schema": schema}
    if has_scale:
        paths = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
        served["subresources"] = {"scale": paths}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    spec = {"group": group, "names": names, "scope": "Namespaced", "versions": [served]}
    body = _object("CustomResourceDefinition", "apiextensions.k8s.io/v1", f"{plural}.{group}", spec)
    await server.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)

    async def is_served() -> bool:
        if server.name == "emulator":
            return True
        # An unknown group is answered with a text.
        groups = (await server.must("GET", "/apis"))["groups"]
        if group not in {one["name"] for one in groups}:
            return False
        tree = await server.must("GET", f"/apis/{group}/{version}")
        return any(one["kind"] == kind for one in tree["resources"])

    await eventually(is_served)


async def make_node(server: Server, name: str, labels: dict[str, str]) -> None:
    """Make a node that Pods can run on."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    await server.must("POST", "/api/v1/nodes", node)
    # Admission taints a node until its kubelet has said that it is ready.
    await server.must("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None}}, MERGE_PATCH)


class Workloads:
    """Makes workloads on a server, each of two Pods."""

    def __init__(self, server: Server, other: str) -> None:
        """Make them in the server's namespace; what has Pods in two has the others in ``other``."""
        self._server = server
        self._other = other
        self._apps = f"/apis/apps/v1/namespaces/{server.namespace}"

    async def make_all(self) -> list[Case]:
        """One of each kind, of kinds of one's own only where the server can have some."""
        server = self._server
        cases = [
            await self._make_replicated("Deployment", "deployments"),
            await self._make_replicated("StatefulSet", "statefulsets", serviceName="x", podManagementPolicy="Parallel"),
            await self._make_replicated("ReplicaSet", "replicasets"),
            await self._make_daemon_set(),
            await self._make_job(),
            await self._make_cron_job(),
            await self._make_selected(),
        ]
        if await can_define(server):
            for kind, has_scale in (("Fleet", False), ("Herd", True)):
                await define(server, GROUP, "v1alpha1", kind, has_scale=has_scale)
            await define(server, "argoproj.io", "v1alpha1", "Rollout")
            cases += [await self._make_rollout(), await self._make_fleet(), await self._make_herd()]
        return cases

    def _case(self, kind: str, lead: str | None, grow: Callable[[], Awaitable[object]], **more: Any) -> Case:
        app = kind.lower()
        target = Target(kind=kind, name=app, namespace=self._server.namespace, **_BOUNDS, **more)
        return Case(kind, target, lead, app, (self._server.namespace,), grow)

    async def _make_replicated(self, kind: str, plural: str, **more: Any) -> Case:
        app = kind.lower()
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": app}}, "template": _pods(app), **more}
        await self._server.must("POST", f"{self._apps}/{plural}", _object(kind, "apps/v1", app, spec))
        path = f"{self._apps}/{plural}/{app}"
        return self._case(kind, path, lambda: self._scale(path, 4))

    async def _scale(self, path: str, replicas: int) -> None:
        await self._server.must("PATCH", path, {"spec": {"replicas": replicas}}, MERGE_PATCH)

    async def _make_nodes(self, *numbers: int) -> None:
        for number in numbers:
            await make_node(self._server, f"{self._server.namespace}-{number}", {"matrix": self._server.namespace})

    async def _make_daemon_set(self) -> Case:
        await self._make_nodes(1, 2)
        template = _pods("daemonset")
        template["spec"]["nodeSelector"] = {"matrix": self._server.namespace}
        spec = {"selector": {"matchLabels": {"app": "daemonset"}}, "template": template}
        path = f"{self._apps}/daemonsets"
        await self._server.must("POST", path, _object("DaemonSet", "apps/v1", "daemonset", spec))
        return self._case("DaemonSet", f"{path}/daemonset", lambda: self._make_nodes(3, 4))

    async def _post_job(self, name: str, app: str, **meta: Any) -> str:
        template = _pods(app)
        template["spec"]["restartPolicy"] = "Never"
        spec = {"parallelism": 2, "completions": 8, "template": template}
        path = f"/apis/batch/v1/namespaces/{self._server.namespace}/jobs"
        await self._server.must("POST", path, _object("Job", "batch/v1", name, spec, **meta))
        return f"{path}/{name}"

    async def _make_job(self) -> Case:
        path = await self._post_job("job", "job")

        async def grow() -> None:
            await self._server.must("PATCH", path, {"spec": {"parallelism": 4}}, MERGE_PATCH)

        return self._case("Job", path, grow)

    async def _make_cron_job(self) -> Case:
        served = {one["name"] for one in (await self._server.must("GET", "/apis/batch/v1"))["resources"]}
        version = "batch/v1" if "cronjobs" in served else "batch/v1beta1"
        template = _pods("cronjob")
        template["spec"]["restartPolicy"] = "Never"
        jobs = {"spec": {"parallelism": 2, "template": template}}
        spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": jobs}
        path = f"/apis/{version}/namespaces/{self._server.namespace}/cronjobs"
        owner = await self._server.must("POST", path, _object("CronJob", version, "cronjob", spec))
        # As `kubectl create job --from` does.
        await self._post_job("by-hand-1", "cronjob", ownerReferences=_owned_by(owner))
        return self._case(
            "CronJob",
            f"{path}/cronjob",
            lambda: self._post_job("by-hand-2", "cronjob", ownerReferences=_owned_by(owner)),
            api_version=version,
        )

    async def _make_set(self, name: str, app: str, labels: dict[str, str], **meta: Any) -> str:
        selector = {"matchLabels": {"app": app, **labels}}
        spec = {"replicas": 2, "selector": selector, "template": _pods(app, **labels)}
        await self._server.must(
            "POST", f"{self._apps}/replicasets", _object("ReplicaSet", "apps/v1", name, spec, **meta)
        )
        return f"{self._apps}/replicasets/{name}"

    async def _make_rollout(self) -> Case:
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{self._server.namespace}/rollouts"
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "rollout"}}, "template": _pods("rollout")}
        owner = await self._server.must("POST", path, _object("Rollout", "argoproj.io/v1alpha1", "rollout", spec))
        label = {"rollouts-pod-template-hash": "5f6"}
        made = await self._make_set("rollout-5f6", "rollout", label, ownerReferences=_owned_by(owner))

        async def grow() -> None:
            await self._scale(f"{path}/rollout", 4)
            await self._scale(made, 4)

        return self._case("Rollout", f"{path}/rollout", grow)

    async def _make_fleet(self) -> Case:
        """A kind that makes Pods through an object of another kind."""
        path = f"/apis/{GROUP}/v1alpha1/namespaces/{self._server.namespace}/fleets"
        owner = await self._server.must("POST", path, _object("Fleet", f"{GROUP}/v1alpha1", "fleet", {"size": 2}))
        made = await self._make_set("ships", "fleet", {}, ownerReferences=_owned_by(owner))
        case = self._case("Fleet", f"{path}/fleet", lambda: self._scale(made, 4), api_version=f"{GROUP}/v1alpha1")
        return Case("any kind, by owners", case.target, case.lead, case.app, case.namespaces, case.grow)

    async def _make_herd(self) -> Case:
        """A kind that owns no Pods and says in its scale subresource which it means."""
        path = f"/apis/{GROUP}/v1alpha1/namespaces/{self._server.namespace}/herds"
        body = _object("Herd", f"{GROUP}/v1alpha1", "herd", {"replicas": 2})
        await self._server.must("POST", path, body | {"status": {"replicas": 2, "selector": "app=herd"}})
        made = await self._make_set("animals", "herd", {})

        async def grow() -> None:
            await self._scale(f"{path}/herd", 4)
            await self._scale(made, 4)

        case = self._case("Herd", f"{path}/herd", grow, api_version=f"{GROUP}/v1alpha1")
        return Case("any kind, by its scale", case.target, case.lead, case.app, case.namespaces, case.grow)

    async def _make_selected(self) -> Case:
        """Pods of nobody, in two namespaces."""
        places = (self._server.namespace, self._other)

        async def make(number: int) -> None:
            for place in places:
                body = {"apiVersion": "v1", "kind": "Pod", **_pods("picked", tier="batch")}
                body["metadata"]["name"] = f"picked-{number}"
                await self._server.must("POST", f"/api/v1/namespaces/{place}/pods", body)

        await make(1)
        selector = LabelSelector(match_labels={"tier": "batch"})
        target = Target(name="picked", selector=selector, namespaces=places, namespace=places[0], **_BOUNDS)
        return Case("label selector, 2 namespaces", target, None, "picked", places, lambda: make(2))
