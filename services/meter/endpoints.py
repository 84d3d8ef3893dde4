"""Devices of pods whose address has no route of its own, from Cilium's endpoints.

Cilium names a pod's device by its attachment: ``lxc`` and the beginning of the SHA-256 of ``SANDBOX:INTERFACE``
(``Endpoint2IfName`` in its ``pkg/datapath/connector``).  The pod's CiliumEndpoint shows that attachment.
"""

import hashlib
import logging
from contextlib import suppress

from msgspec import Struct, field

from services.kube.objects import NotFound, Rejected, Unavailable, decode_as
from services.kube.plain_client import PlainClient
from services.meter.pods import NodePod

_DIGITS = 12
"""So that the name, with its prefix and a zero, fits into the kernel's 16 bytes."""
_log = logging.getLogger(__name__)


class _Identifiers(Struct, frozen=True):
    attachment: str = field(default="", name="cni-attachment-id")


class _EndpointStatus(Struct, frozen=True):
    identifiers: _Identifiers = field(default=_Identifiers(), name="external-identifiers")


class _Endpoint(Struct, frozen=True):
    status: _EndpointStatus = _EndpointStatus()


def name_device(attachment: str) -> str:
    """The device's name by an attachment, ``SANDBOX:INTERFACE``."""
    return f"lxc{hashlib.sha256(attachment.encode()).hexdigest()[:_DIGITS]}"


class EndpointDevices:
    """Device names by pod uid, each asked for once."""

    def __init__(self, client: PlainClient) -> None:
        """Ask this API server."""
        self._client = client
        self.names: dict[str, str] = {}
        """Of the pods that were asked for; replaced, never changed in place."""

    def update(self, pods: tuple[NodePod, ...]) -> None:
        """Ask for the endpoints of new pods, and forget those of pods that are gone."""
        present = {pod.metadata.uid for pod in pods}
        names = {uid: name for uid, name in self.names.items() if uid in present}
        try:
            for pod in pods:
                meta = pod.metadata
                if meta.uid not in names and pod.has_own_network and pod.addresses:
                    path = f"/apis/cilium.io/v2/namespaces/{meta.namespace}/ciliumendpoints/{meta.name}"
                    with suppress(NotFound):
                        endpoint = decode_as(_Endpoint, self._client.fetch(path), "no endpoint")
                        # Cilium may not tell it yet.
                        if attachment := endpoint.status.identifiers.attachment:
                            names[meta.uid] = name_device(attachment)
        except (Rejected, Unavailable) as error:
            _log.warning("endpoints: %s", error)
        self.names = names
