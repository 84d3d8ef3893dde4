"""One informer for all targets of a namespace: what each of them gets to see, in which order things may appear."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from services.actuator.informer import Informer
from services.actuator.observed import ObservedState, Watched
from services.kube.changes import Deleted, Listed, T, Updated
from services.kube.objects import Deployment, Meta, Owner, Pod, WorkloadSpec
from services.kube.selectors import Selector
from tests.support.kube.objects import TARGET
from tests.support.waiting import until

NAMES = ("app", "other")


def deployment(name: str, uid: str = "1", **labels: str) -> Deployment:
    """A Deployment whose Pods carry its name and more labels."""
    return Deployment(Meta(name, "n", f"{name}-{uid}", "1"), WorkloadSpec(Selector({"app": name, **labels}), 1))


def pod(name: str, number: int, **labels: str) -> Pod:
    """One of its Pods."""
    owner = Owner("ReplicaSet", f"{name}-1", f"rs-{name}", controller=True)
    labelled = {"app": name, "pod-template-hash": "1", **labels}
    return Pod(Meta(f"{name}-1-{number}", "n", f"{name}{number}", "1", labels=labelled, owner_references=(owner,)))


class Cluster:
    """An API server whose objects the test sets; it sends changes to every watch."""

    def __init__(self) -> None:
        """Begin empty."""
        self.objects: dict[type[Any], dict[str, Any]] = {Deployment: {}, Pod: {}}
        self._watches: list[tuple[type[Any], asyncio.Queue[Any]]] = []
        self.lists: list[type[Any]] = []

    def put(self, obj: Deployment | Pod, *, is_gone: bool = False) -> None:
        """Create, change or delete an object."""
        held = self.objects[type(obj)]
        held.pop(obj.uid, None) if is_gone else held.update({obj.uid: obj})
        for kind, queue in self._watches:
            if kind is type(obj):
                queue.put_nowait((obj, is_gone))

    async def read_json(self, path: str) -> Any:
        """Only known kinds are asked for."""
        raise AssertionError(path)

    fetch = read_json

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """No owner is asked for."""
        raise AssertionError(name)

    async def create(self, kind: type[T], namespace: str, name: str, *, dry_run: bool = False) -> T:
        """No record is made."""
        raise AssertionError(name)

    async def list_and_watch(
        self,
        kind: type[T],
        namespace: str,
        is_wanted: Callable[[T], bool] = lambda _: True,
        *,
        name: str | None = None,
        selector: str | None = None,
        keep: Collection[str] = (),
    ) -> AsyncGenerator[Listed[T] | Updated[T] | Deleted[T], None]:
        """As the client does: objects are asked about with all their labels, and passed on without them."""
        self.lists.append(kind)
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._watches.append((kind, queue))
        await asyncio.sleep(0)
        yield Listed(tuple(one.trim(keep) for one in self.objects[kind].values() if is_wanted(one)))
        while True:
            obj, is_gone = await queue.get()
            yield Deleted(obj.trim(keep)) if is_gone or not is_wanted(obj) else Updated(obj.trim(keep))


async def test_each_target_gets_its_own() -> None:
    """Whatever appears first; a Pod that is given up, and those of a replaced Deployment, are dropped."""
    cluster, troubles = Cluster(), dict[str, str | None]()
    states = {name: ObservedState(lambda: None) for name in NAMES}
    targets = {name: msgspec.structs.replace(TARGET, deployment=name, namespace="n") for name in NAMES}
    informer = Informer(cluster, troubles.__setitem__)
    for name, state in states.items():
        informer.add(Watched(targets[name], state))
    cluster.put(deployment("app"))
    cluster.put(pod("app", 1))
    cluster.put(pod("stranger", 1))
    cluster.put(pod("other", 1))

    def uids(name: str) -> list[str]:
        return [one.uid for one in states[name].pods] if states[name].has_all_pods else ["incomplete"]

    running = asyncio.create_task(informer.run())
    await until(lambda: uids("app") == ["app1"])
    assert troubles == {"n/app": None, "n/other": "there is no such Deployment"}
    # A Deployment that appears after its Pod: it is complete only once its Pods were listed again.
    cluster.put(deployment("other"))
    await until(lambda: states["other"].workload is not None)
    assert uids("other") == ["incomplete"]
    await until(lambda: uids("other") == ["other1"])
    assert troubles["n/other"] is None
    cluster.put(pod("other", 2))
    await until(lambda: uids("other") == ["other1", "other2"])
    given_up = pod("other", 2)
    cluster.put(replace(given_up, metadata=replace(given_up.metadata, owner_references=())))
    await until(lambda: uids("other") == ["other1"])
    # Another Deployment of that name, with another selector: the old one's Pod is no longer its own.
    cluster.put(deployment("app"), is_gone=True)
    cluster.put(deployment("app", "2", track="new"))
    cluster.put(pod("app", 3, track="new"))
    await until(lambda: uids("app") == ["app3"])
    assert uids("other") == ["other1"]
    assert cluster.lists.count(Deployment) == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
