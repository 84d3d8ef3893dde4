"""Devices of pods whose address has no route of its own, from Cilium's endpoints.

Cilium names a pod's device by its attachment: ``lxc`` and the beginning of the SHA-256 of ``SANDBOX:INTERFACE``
(``Endpoint2IfName`` in its ``pkg/datapath/connector``).  The pod's CiliumEndpoint shows that attachment.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from msgspec import Struct, field

from services.kube.objects import Meta, NotFound, Rejected, Unavailable, decode_as
from services.kube.plain_client import PlainClient
from services.meter.pods import NodePod

_DIGITS = 12
"""So that the name, with its prefix and a zero, fits into the kernel's 16 bytes."""
_LONGEST_S = 60.0
_log = logging.getLogger(__name__)


class _Identifiers(Struct, frozen=True):
    attachment: str = field(default="", name="cni-attachment-id")
    container: str = field(default="", name="container-id")


class _EndpointStatus(Struct, frozen=True):
    identifiers: _Identifiers = field(default=_Identifiers(), name="external-identifiers")


class _Endpoint(Struct, frozen=True):
    metadata: Meta
    status: _EndpointStatus = _EndpointStatus()

    def is_of(self, pod: NodePod) -> bool:
        """Whether it is this pod's, and not left of one that had the same name."""
        owners = [one.uid for one in self.metadata.owner_references if one.kind == "Pod"]
        return not owners or pod.metadata.uid in owners


class _Asked(Struct, frozen=True):
    """When a pod's endpoint was asked for, monotonic seconds."""

    first: float
    last: float

    def is_due(self, now: float) -> bool:
        """Whether to ask again: as long after the last time as that was after the first, within a minute."""
        return now - self.last >= min(self.last - self.first, _LONGEST_S)


def name_device(attachment: str) -> str:
    """The device's name by an attachment, ``SANDBOX:INTERFACE``; before Cilium 1.14 by the sandbox alone."""
    return f"lxc{hashlib.sha256(attachment.encode()).hexdigest()[:_DIGITS]}"


class EndpointDevices:
    """Device names by pod uid, each asked for until its device is there."""

    def __init__(self, client: PlainClient, now: Callable[[], float] = time.monotonic) -> None:
        """Ask this API server."""
        self._client = client
        self._now = now
        self._asked: dict[str, _Asked] = {}
        self.names: dict[str, str] = {}
        """Of the pods that were asked for; replaced, never changed in place."""
        self.problem: str | None = None
        """Why the API does not tell; None while it does."""

    def update(self, pods: tuple[NodePod, ...], devices: Collection[str]) -> None:
        """Ask for the endpoints of pods whose device is not known, or has gone, and forget pods that are gone.

        Args:
            pods: of the node.
            devices: of the node, now.
        """
        present = {pod.metadata.uid for pod in pods}
        names = {uid: name for uid, name in self.names.items() if uid in present}
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in present}
        missing = [pod for pod in pods if names.get(pod.metadata.uid) not in devices]
        due = [pod for pod in missing if pod.has_own_network and pod.addresses and self._is_due(pod)]
        # While it waits to ask again, the last answer stands.
        problem = self.problem if missing and not due else None
        try:
            for pod in due:
                self._ask(pod, names)
        except (Rejected, Unavailable) as error:
            problem = str(error)
        if problem != self.problem:
            _log.warning("endpoints: %s", problem or "they are read")
        self.problem, self.names = problem, names

    def _is_due(self, pod: NodePod) -> bool:
        asked = self._asked.get(pod.metadata.uid)
        return asked is None or asked.is_due(self._now())

    def _ask(self, pod: NodePod, names: dict[str, str]) -> None:
        """Ask for a pod's endpoint, and note the name of its device."""
        meta, now = pod.metadata, self._now()
        first = self._asked.get(meta.uid, _Asked(now, now)).first
        self._asked[meta.uid] = _Asked(first, now)
        path = f"/apis/cilium.io/v2/namespaces/{meta.namespace}/ciliumendpoints/{meta.name}"
        with suppress(NotFound):
            endpoint = decode_as(_Endpoint, self._client.fetch(path), "no endpoint")
            identifiers = endpoint.status.identifiers
            # Cilium may not tell it yet.
            if endpoint.is_of(pod) and (attachment := identifiers.attachment or identifiers.container):
                names[meta.uid] = name_device(attachment)
