"""Whose a Pod is: by its chain of owners, by a scale subresource or by labels; and what is reported, not ignored."""

from typing import Any

import pytest

from schemas.domain import Target
from schemas.units import Rate
from schemas.workloads import LabelRequirement, LabelSelector
from services.kube.claims import Claim, Claims
from services.kube.objects import Deployment, Meta, NotFound, Owner, Pod, Rejected, Workload, WorkloadSpec, known_owners
from services.kube.owners import OwnerChains
from services.kube.selectors import Selector
from services.kube.workloads import (
    CronJob,
    Job,
    OtherOwner,
    Rollout,
    RolloutSpec,
    Scale,
    ScaleStatus,
    SelectorRecord,
    derive_kind,
)

BOUNDS: dict[str, Any] = {"min": Rate(1_000), "max": Rate(9_000), "fail_safe": Rate(2_000), "namespace": "n"}
WEB = Selector({"app": "web"})
FLEET = derive_kind(OtherOwner, "Fleet", "x.io/v1", "fleets", has_scale=True)


def meta(name: str, *owners: Owner, **labels: str) -> Meta:
    """Metadata; the uid is the name's."""
    return Meta(name, "n", f"uid-{name}", "1", labels=labels, owner_references=owners)


def owner(kind: str, name: str, version: str = "apps/v1") -> Owner:
    """A reference to an object that ``meta`` names."""
    return Owner(kind=kind, name=name, uid=f"uid-{name}", controller=True, api_version=version)


def target(kind: str, name: str, **more: Any) -> Target:
    """A target."""
    return Target(kind=kind, name=name, **BOUNDS, **more)


def selected(name: str, *requirements: LabelRequirement, **labels: str) -> tuple[Target, Workload]:
    """A label selector with its record."""
    selector = LabelSelector(match_labels=labels, match_expressions=requirements)
    return Target(name=name, selector=selector, **BOUNDS), SelectorRecord(meta(f"sluice-target-{name}"))


DEPLOYMENT = (target("Deployment", "web"), Deployment(meta("web"), WorkloadSpec(WEB, 0)))
ROLLOUT = (target("Rollout", "web"), Rollout(meta("web"), RolloutSpec(WEB, 2)))
CRON = (target("CronJob", "backup"), CronJob(meta("backup")))
JOB = (target("Job", "backup-1"), Job(meta("backup-1")))
ROLLED = Pod(meta("web-5f6-abcde", owner("ReplicaSet", "web-5f6"), app="web", **{"rollouts-pod-template-hash": "5f6"}))
BACKUP = Pod(meta("backup-1-abcde", owner("Job", "backup-1", "batch/v1"), tier="batch"))
CHAIN = (*known_owners(BACKUP), owner("CronJob", "backup", "batch/v1"))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([ROLLOUT], Claim("n/rollout/web")),
        # Of a Deployment with no replicas and a Rollout's workloadRef (argo-rollouts#1801).
        ([DEPLOYMENT], Claim(stray_of=("n/web",))),
        ([DEPLOYMENT, ROLLOUT], Claim("n/rollout/web")),
        ([selected("hogs", app="web"), ROLLOUT], Claim("n/rollout/web", also=("n/selector/hogs",))),
        ([selected("b", app="web"), selected("a", app="web")], Claim("n/selector/b", also=("n/selector/a",))),
        ([selected("no", LabelRequirement(key="app", operator="NotIn", values=("web",)))], Claim()),
        ([(ROLLOUT[0], None)], Claim()),
    ],
)
def test_a_pod_has_one_target_and_the_others_are_named(targets: list[Any], expected: Claim) -> None:
    """An object before a selector, the first selector before the next; a stray is nobody's."""
    claims = Claims(targets)
    assert claims.judge(ROLLED, known_owners(ROLLED)) == expected
    assert claims.may_concern(ROLLED) is (expected != Claim())


def test_the_nearest_owner_comes_first() -> None:
    """A Job before its CronJob, whichever the file names first; an owner of another uid or group is another's."""
    assert Claims([CRON, JOB]).judge(BACKUP, CHAIN) == Claim("n/job/backup-1", also=("n/cronjob/backup",))
    assert Claims([CRON]).judge(BACKUP, CHAIN) == Claim("n/cronjob/backup")
    earlier = (CHAIN[0], Owner(kind="CronJob", name="backup", uid="earlier", controller=True, api_version="batch/v1"))
    foreign = (CHAIN[0], owner("CronJob", "backup", "other.io/v1"))
    for chain in (earlier, foreign, CHAIN[:1]):
        assert Claims([CRON]).judge(BACKUP, chain) == Claim()


def test_a_scale_subresource_selects_pods_of_others() -> None:
    """After owners and before label selectors."""
    fleet = FLEET(meta("f"))
    assert isinstance(fleet, OtherOwner)
    scaled = (target("Fleet", "f", api_version="x.io/v1"), fleet.with_scale(Scale(status=ScaleStatus("app in (web)"))))
    one = Claims([selected("hogs", app="web"), scaled])
    assert one.judge(ROLLED, ()) == Claim("n/fleet.x.io/f", also=("n/selector/hogs",))
    assert one.judge(Pod(meta("other", app="other")), ()) == Claim()


class Cluster:
    """Objects by kind and name; it counts what is read."""

    def __init__(self, *objects: Workload) -> None:
        """Hold these."""
        self.reads: list[str] = []
        self._objects = {(type(one).kind, one.metadata.name): one for one in objects}

    async def read_json(self, path: str) -> Any:
        """The discovery of one group."""
        self.reads.append(path)
        if path != "/apis/x.io/v1":
            raise NotFound(path)
        return {"resources": [{"name": "fleets", "kind": "Fleet", "namespaced": True}]}

    async def read(self, kind: Any, namespace: str, name: str) -> Any:
        """An object."""
        self.reads.append(f"{kind.plural}/{name}")
        found = self._objects.get((kind.kind, name))
        if found is None:
            raise Rejected("403") if name == "secret" else NotFound("404")
        return found


async def test_owners_are_asked_for_once_and_only_where_it_matters() -> None:
    """A Deployment's Pods tell enough; a chain ends where nothing more may be read."""
    made = Job(meta("backup-1", owner("CronJob", "backup", "batch/v1")))
    cluster = Cluster(made)
    chains, claims = OwnerChains(cluster), Claims([CRON, DEPLOYMENT])
    plain = Pod(meta("web-1-a", owner("ReplicaSet", "web-1"), app="web", **{"pod-template-hash": "1"}))
    for _ in range(2):
        assert await chains.follow(BACKUP, claims.is_worth_following) == CHAIN
        assert len(await chains.follow(plain, claims.is_worth_following)) == 2
    assert cluster.reads == ["jobs/backup-1"]
    everything = Claims([(target("Fleet", "f", api_version="x.io/v1"), FLEET(meta("f")))])
    for kind, name in (("Fleet", "gone"), ("Fleet", "secret"), ("Ship", "unknown")):
        lost = Pod(meta("lost", owner(kind, name, "x.io/v1")))
        assert len(await chains.follow(lost, everything.is_worth_following)) == 1
