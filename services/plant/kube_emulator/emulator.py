"""A Kubernetes API for machines without a cluster: what the actuator, the plant and the tests need of one.

    clients --HTTP--> http_api.py (on kmock) --> ObjectStore <-- controllers.py

One contract suite runs on the emulator and on a real API server.  The emulator has no credentials,
no server-side apply and no validation of specifications.

    emulator = Emulator()
    async with emulator as url:
        emulator.apply(manifests)
        emulator.scale("default/telemetry-upload", 3)
"""

import asyncio
import contextlib
from collections.abc import Iterable
from functools import partial

import kmock

from services.plant.kube_emulator.controllers import Placement, iter_owned, run, run_kubelets
from services.plant.kube_emulator.http_api import KubeApi
from services.plant.kube_emulator.patch import merge
from services.plant.kube_emulator.resources import key_of
from services.plant.kube_emulator.store import Key, ObjectStore, Tree


class Emulator:
    """An emulated cluster; ``async with`` serves it and gives its address."""

    def __init__(
        self,
        *,
        starts_after: float | None = 0.5,
        host: str = "127.0.0.1",
        port: int | None = None,
        place: Placement = lambda _: None,
    ) -> None:
        """Describe the cluster.

        Args:
            starts_after: seconds from a Pod's creation until it runs, and from its deletion until it
                is gone.  With None no Pods are bound or run, as on an API server without nodes.
            host: address to listen on.
            port: to listen on; None takes a free one.
            place: chooses a Pod's node and address.
        """
        self.objects = ObjectStore()
        self._delay = starts_after
        self._listen = (host, port)
        self._place = place
        self._server = KubeApi(self.objects)
        self._running = contextlib.AsyncExitStack()
        self._controllers: list[asyncio.Task[None]] = []
        for namespace in ("default", "kube-system"):
            self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}])

    async def __aenter__(self) -> str:
        """Serve, and return the address ``http://127.0.0.1:PORT``.  Objects survive leaving and entering again."""
        self._server.closing.clear()
        await self._running.enter_async_context(self._server)
        server = await self._running.enter_async_context(kmock.Server(self._server, *self._listen))
        self._controllers = [asyncio.create_task(run(self.objects))]
        if self._delay is not None:
            self._controllers.append(asyncio.create_task(run_kubelets(self.objects, self._delay, self._place)))
        self._listen = (self._listen[0], server.port)
        return str(server.url).rstrip("/")

    async def __aexit__(self, *_: object) -> None:
        """Stop; watches end."""
        self._server.closing.set()
        async with self._running:
            for controller in self._controllers:
                controller.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await controller

    def apply(self, manifests: Iterable[Tree]) -> None:
        """Create each object, or merge it into the one that is there.

        Raises:
            StatusError: a manifest cannot be stored; the ones before it are.
        """
        for tree in manifests:
            key = key_of(tree)
            if self.objects.get(key) is None:
                self._server.create(key, tree)
            else:
                self.objects.update(key, partial(merge, patch=tree))

    def scale(self, deployment: str, replicas: int) -> None:
        """Set the replicas of ``namespace/deployment``.

        Raises:
            StatusError: there is no such Deployment.
        """
        namespace, _, name = deployment.partition("/")
        key: Key = ("deployments.apps", namespace, name)
        self.objects.update(key, lambda tree: merge(tree, {"spec": {"replicas": replicas}}))

    def pods(self, deployment: str) -> list[Tree]:
        """The Pods of ``namespace/deployment`` that its ReplicaSets own, ending ones included."""
        namespace, _, name = deployment.partition("/")
        owner = self.objects.get(("deployments.apps", namespace, name))
        if owner is None:
            return []
        owned = iter_owned(self.objects, "replicasets.apps", owner)
        return [pod for _, replica_set in owned for _, pod in iter_owned(self.objects, "pods", replica_set)]
