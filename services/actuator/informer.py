"""First station on the cluster's side: keeps a target's Deployment and Pods as they are now.

cluster.py --> here --> target.py
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Protocol

import structlog

from services.common.backoff import BackOff
from services.kube.client import Listed, Put, Removed, T
from services.kube.objects import Deployment, Gone, Pod, Refused, Unavailable

_STEADY_S = 5.0
"""A watch that lasted longer is begun anew without much ado."""

_log = structlog.get_logger()


class Follows(Protocol):
    """What this needs of the cluster."""

    def follow(
        self, kind: type[T], namespace: str, *, name: str | None = None, labels: str | None = None
    ) -> AsyncGenerator[Listed[T] | Put[T] | Removed[T], None]:
        """All objects there are, then every change."""


class Seen:
    """A target's objects as they were seen last."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """``changed`` is called at every change."""
        self._changed = changed
        self._pods: dict[str, Pod] = {}
        self.deployment: Deployment | None = None
        self.looked = False
        """Whether the Deployment was looked for."""
        self.complete = False
        """Whether all Pods of the Deployment are known."""

    @property
    def pods(self) -> list[Pod]:
        """The Deployment's Pods, by name."""
        owner = self.deployment
        if owner is None:
            return []
        return sorted((pod for pod in self._pods.values() if pod.belongs_to(owner)), key=lambda pod: pod.metadata.name)

    def put(self, thing: Deployment | Pod) -> None:
        """An object is new or changed; a state older than the one that is known is ignored."""
        if isinstance(thing, Deployment):
            known = self.deployment
            if known is None or known.uid != thing.uid or known.version < thing.version:
                self.deployment = thing
        else:
            before = self._pods.get(thing.uid)
            if before is None or before.version < thing.version:
                self._pods[thing.uid] = thing
        self._changed()

    def answered(self, thing: Deployment | Pod) -> None:
        """The API server answered with an object: taken if it is still known, since it may be gone by now."""
        if thing.uid in self._pods or (self.deployment is not None and thing.uid == self.deployment.uid):
            self.put(thing)

    def remove(self, thing: Deployment | Pod) -> None:
        """An object is gone."""
        if isinstance(thing, Pod):
            self._pods.pop(thing.uid, None)
        elif self.deployment is not None and self.deployment.uid == thing.uid:
            self.deployment = None
        self._changed()

    def deployments(self, found: Sequence[Deployment]) -> None:
        """The Deployment was looked for: it is the only one found, or there is none."""
        self.looked = True
        if not found:
            self.deployment = None
        for one in found:
            self.put(one)
        self._changed()

    def all_pods(self, pods: Sequence[Pod]) -> None:
        """These are all Pods with the Deployment's labels."""
        current = {pod.uid for pod in pods}
        self._pods = {uid: pod for uid, pod in self._pods.items() if uid in current}
        self.complete = True
        for pod in pods:
            self.put(pod)
        self._changed()

    def look_again(self) -> None:
        """There is another Deployment: its Pods are not known."""
        self._pods.clear()
        self.complete = False
        self._changed()


class Watch:
    """Keeps one target's ``Seen`` up to date."""

    def __init__(self, cluster: Follows, key: str, seen: Seen, state: Callable[[str | None], None]) -> None:
        """Watch ``namespace/deployment``; ``state`` hears why it does not work, or None."""
        self._cluster = cluster
        self._namespace, _, self._name = key.partition("/")
        self._seen = seen
        self._state = state
        self._troubles: dict[str, str] = {}
        self._found: asyncio.Queue[Deployment] = asyncio.Queue()

    async def run(self) -> None:
        """Watch, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again("deployment", self._deployments))
            group.create_task(self._pods_of_each())

    async def _again(self, what: str, watch: Callable[[], Awaitable[None]]) -> None:
        back_off = BackOff(0.2)
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await watch()
            except (Unavailable, Refused, Gone) as error:
                _log.warning("watch", target=f"{self._namespace}/{self._name}", what=what, reason=str(error))
                self._tell(what, str(error))
            if asyncio.get_running_loop().time() - began > _STEADY_S:
                back_off = BackOff(0.2)
            await back_off.wait()

    def _tell(self, what: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(what, None)
        else:
            self._troubles[what] = trouble
        self._state(next(iter(self._troubles.values()), None))

    async def _deployments(self) -> None:
        async with aclosing(self._cluster.follow(Deployment, self._namespace, name=self._name)) as changes:
            async for change in changes:
                if isinstance(change, Removed):
                    self._seen.remove(change.thing)
                else:
                    things = change.things if isinstance(change, Listed) else (change.thing,)
                    self._seen.deployments(things)
                    for thing in things:
                        self._found.put_nowait(thing)
                self._tell("deployment", None)

    async def _pods_of_each(self) -> None:
        """Follow the Pods of the Deployment that is there, and of the next one when it is replaced."""
        deployment = await self._found.get()
        while True:
            following = asyncio.create_task(self._again("pods", partial(self._pods, deployment)))
            try:
                deployment = await self._other_than(deployment.uid)
            finally:
                following.cancel()
                await asyncio.wait([following])
            self._seen.look_again()

    async def _other_than(self, uid: str) -> Deployment:
        while True:
            deployment = await self._found.get()
            if deployment.uid != uid:
                return deployment

    async def _pods(self, deployment: Deployment) -> None:
        labels = deployment.spec.selector.query()
        async with aclosing(self._cluster.follow(Pod, self._namespace, labels=labels)) as changes:
            async for change in changes:
                if isinstance(change, Listed):
                    self._seen.all_pods(change.things)
                elif isinstance(change, Put):
                    self._seen.put(change.thing)
                else:
                    self._seen.remove(change.thing)
                self._tell("pods", None)
