"""The cluster's objects as Sluice needs them, workloads and their Pods, and what the API server answers instead.

A workload kind is a subclass of ``Workload``; ``workloads.py`` has them.  The actuator does not depend on the kind.
"""

import sys
from collections.abc import AsyncIterator, Collection
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

import msgspec
from msgspec import Struct, structs

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.units import Rate
from services.common.retry_after import parse_retry_after
from services.kube.selectors import Selector

if TYPE_CHECKING:
    import aiohttp

BANDWIDTH = "kubernetes.io/egress-bandwidth"
"""The limit that Cilium enforces on a Pod, as a quantity of bit/s; on a workload it declares the intent."""

_KEPT = (BANDWIDTH, "sluice.dev/")
K = TypeVar("K", bound="KubeObject")
S = TypeVar("S")
_MOST_OF_REFUSAL = 64 * 1024
_MOST_BYTES = 4 * 1024 * 1024
"""No object of the API is larger; etcd takes 1.5 MiB."""
_LONGEST_BODY = 12 * 1024 * 1024
"""No page of a list is larger; a proxy may send anything.  Held twice for a moment, it fits into the actuator's Pod."""


class StatusDetails(Struct, frozen=True, rename="camel"):
    """More about an error."""

    retry_after_seconds: int = 0


class Owner(Struct, frozen=True, rename="camel"):
    """A reference to the object that made another."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    """Empty where only the name is known."""
    controller: bool = False
    api_version: str = ""

    @property
    def group(self) -> str:
        """The API group of its kind; empty for the core group."""
        return self.api_version.rpartition("/")[0]


class Meta(Struct, frozen=True, rename="camel"):
    """An object's metadata."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[Owner, ...] = ()
    deletion_timestamp: str | None = None


@lru_cache(2048)
def _share(
    texts: tuple[tuple[str, str], ...], owners: tuple[Owner, ...]
) -> tuple[dict[str, str] | None, tuple[Owner, ...]]:
    """One copy of what all Pods of a ReplicaSet have in common: labels or annotations, and owners."""
    return dict(texts) or None, owners


class KubeObject(Struct, frozen=True):
    """A namespaced object with annotations."""

    metadata: Meta

    kind: ClassVar[str]
    api_version: ClassVar[str]
    plural: ClassVar[str]
    """The resource's name in a path."""

    kept_labels: ClassVar[tuple[str, ...]] = ()
    """The labels that tell whose object it is."""

    def trim(self: K, keep: Collection[str] = ()) -> K:
        """Drop what Sluice never looks at: with thousands of objects, others' metadata would fill the memory.

        Args:
            keep: labels to keep beside those that tell whose object it is.
        """
        meta = self.metadata
        noted, _ = _share(tuple((key, text) for key, text in self.annotations.items() if key.startswith(_KEPT)), ())
        labels, owners = _share(
            tuple((key, value) for key, value in (meta.labels or {}).items() if key in self.kept_labels or key in keep),
            tuple(owner for owner in meta.owner_references if owner.controller),
        )
        trimmed = structs.replace(
            meta,
            namespace=sys.intern(meta.namespace),
            annotations=None if meta.annotations is None else noted or {},
            labels=labels,
            owner_references=owners,
        )
        return structs.replace(self, metadata=trimmed)

    @classmethod
    def path(cls, namespace: str, name: str | None = None) -> str:
        """The API's path of one object, or of all of this kind in a namespace."""
        root = "/apis" if "/" in cls.api_version else "/api"
        path = f"{root}/{cls.api_version}/namespaces/{namespace}/{cls.plural}"
        return path if name is None else f"{path}/{name}"

    @property
    def uid(self) -> str:
        """Differs from that of an earlier object of the same name."""
        return self.metadata.uid

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations; empty where the API has none."""
        return self.metadata.annotations or {}

    @property
    def bandwidth(self) -> str | None:
        """The bandwidth annotation's text."""
        return self.annotations.get(BANDWIDTH)

    @property
    def limit(self) -> int | None:
        """The bandwidth annotation as Cilium reads it, kbit/s; None where it limits nothing."""
        rate = Rate.enforced(self.bandwidth)
        return None if rate is None else int(rate)

    def is_newer_than(self, other: "KubeObject") -> bool:
        """Whether this state came later, as far as resource versions tell; False where they are no numbers."""
        try:
            return int(self.metadata.resource_version) > int(other.metadata.resource_version)
        except ValueError:
            return False

    def has_bandwidth(self, value: str) -> bool:
        """Whether the bandwidth annotation is this value, or another notation of it."""
        if self.bandwidth == value:
            return True
        limit = self.limit
        return limit is not None and limit == Rate.enforced(value)


class PodStatus(Struct, frozen=True):
    """A Pod's status."""

    phase: str = "Pending"


class PodNetwork(Struct, frozen=True, rename="camel"):
    """What of a Pod's specification decides whether and where it can be limited."""

    host_network: bool = False
    """Whether it has no network of its own."""
    node_name: str = ""
    """Where it runs; empty until it has been scheduled."""


class Pod(KubeObject, frozen=True):
    """A Pod."""

    spec: PodNetwork = PodNetwork()
    status: PodStatus = PodStatus()

    kept_labels: ClassVar[tuple[str, ...]] = ("pod-template-hash", "rollouts-pod-template-hash")
    kind: ClassVar[str] = "Pod"
    api_version: ClassVar[str] = "v1"
    plural: ClassVar[str] = "pods"

    @property
    def has_ended(self) -> bool:
        """Whether it will never send again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_terminating(self) -> bool:
        """Whether it was deleted; it may send until it is gone."""
        return self.metadata.deletion_timestamp is not None


class WorkloadSpec(Struct, frozen=True):
    """A workload's specification."""

    selector: Selector
    replicas: int = 1


class Workload(KubeObject, frozen=True):
    """A target's object: what keeps its Pods, or a record in the place of that."""

    @property
    def selector(self) -> Selector | None:
        """Selects its Pods, and perhaps others' with the same labels; None: it has no selector."""
        return None

    @property
    def wanted_pods(self) -> int:
        """How many Pods it wants to have, as far as it tells; some may not exist yet."""
        return 0

    def is_named_by(self, owner: Owner) -> bool:
        """Whether a reference is to this object, in whichever version of its kind."""
        is_kind = owner.kind == self.kind and owner.group in ("", self.api_version.rpartition("/")[0])
        return is_kind and owner.name == self.metadata.name and owner.uid in ("", self.uid)

    def owns(self, pod: Pod) -> bool:
        """Whether it made the Pod, as far as that Pod tells: another workload's may carry the same labels."""
        return any(self.is_named_by(owner) for owner in known_owners(pod))


class Replicated(Workload, frozen=True):
    """An object that keeps a number of Pods which its selector matches."""

    spec: WorkloadSpec

    @property
    def selector(self) -> Selector:
        """Selects its Pods."""
        return self.spec.selector

    @property
    def wanted_pods(self) -> int:
        """Its replicas."""
        return self.spec.replicas


class Deployment(Replicated, frozen=True):
    """A Deployment, which makes Pods through ReplicaSets."""

    kind: ClassVar[str] = "Deployment"
    api_version: ClassVar[str] = "apps/v1"
    plural: ClassVar[str] = "deployments"


_HASHES = {
    "pod-template-hash": ("Deployment", "apps/v1"),
    "rollouts-pod-template-hash": ("Rollout", "argoproj.io/v1alpha1"),
}
"""The label that ends the name of a ReplicaSet, and what makes such ReplicaSets."""


def known_owners(pod: Pod) -> tuple[Owner, ...]:
    """The chain of owners as far as a Pod itself tells, the nearest first.

    A ReplicaSet that a Deployment or a Rollout made is named after it and a hash, which the Pod has as a label.
    """
    owner = next((one for one in pod.metadata.owner_references if one.controller), None)
    if owner is None:
        return ()
    if owner.kind == "ReplicaSet":
        for label, (kind, version) in _HASHES.items():
            suffix = f"-{(pod.metadata.labels or {}).get(label, '')}"
            if len(suffix) > 1 and owner.name.endswith(suffix):
                maker = Owner(kind=kind, name=owner.name.removesuffix(suffix), controller=True, api_version=version)
                return owner, maker
    return (owner,)


class ApiFailure(Exception):
    """The API server did not do what was asked."""

    def __init__(
        self,
        text: str = "",
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        is_unreached: bool = False,
        body: bytes = b"",
    ) -> None:
        """Say why.

        Args:
            text: in words.
            status: of HTTP; None: no answer.
            retry_after_s: for how many seconds the server asks to be left alone.
            is_unreached: there was no connection, so that the server has no work with another attempt.
            body: of the answer, which may be that of a Pod behind the server; cut where it is long.
        """
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_unreached = is_unreached
        self.body = body[:_MOST_OF_REFUSAL]


class Unavailable(ApiFailure):
    """The API server does not answer, or not now; the request may or may not have taken effect."""


class Rejected(ApiFailure):
    """The API server refuses the request: no permission, or an object that it does not allow."""


class StaleObject(ApiFailure):
    """The object has changed since it was read: a precondition failed."""


class Superseded(Exception):
    """A write was dropped before it was sent, because it is no longer wanted."""


class NotFound(ApiFailure):
    """There is no such object."""


class Status(Struct, frozen=True):
    """An error, as the API writes it."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


async def read_body(content: "aiohttp.StreamReader") -> bytes:
    """Read an answer that is no watch.

    Raises:
        Unavailable: it is larger than any list that was asked for.
    """
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise Unavailable(f"the server's answer is larger than {_LONGEST_BODY} bytes", status=200)
    return bytes(body)


async def read_lines(content: "aiohttp.StreamReader") -> AsyncIterator[bytes]:
    """Read lines of any length that an object may have; the library stops at 128 KiB.

    Raises:
        Unavailable: a line has no end.
    """
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        *lines, last = rest.split(b"\n") if b"\n" in chunk else [rest]
        rest = bytearray(last)
        for line in lines:
            if line:
                yield bytes(line)
        if len(rest) > _MOST_BYTES:
            raise Unavailable("a watch event is larger than any object", status=200)
    if rest:
        yield bytes(rest)


def decode_as(kind: type[S], body: bytes | msgspec.Raw, text: str = "not what was asked for") -> S:
    """Decode an answer.

    Raises:
        Unavailable: it is something else: a page of a proxy, say.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODE_ERRORS as error:
        raise Unavailable(f"the server's answer is {text}: {describe_decode_error(error)}", status=200) from None


def raise_for_status(code: int, body: bytes, retry_after: str | None) -> NoReturn:
    """Raise the error for an HTTP status.

    Raises:
        NotFound, StaleObject, Rejected or Unavailable.
    """
    try:
        status = msgspec.json.decode(body, type=Status)
    except DECODE_ERRORS:
        status = Status(message=body[:200].decode("utf-8", "replace"))
    text = f"{code} {status.reason}: {status.message}"[:500]
    seconds = parse_retry_after(retry_after)
    if seconds is None and status.details is not None and status.details.retry_after_seconds > 0:
        seconds = float(status.details.retry_after_seconds)
    if code in (404, 410):
        raise NotFound(text, retry_after_s=seconds)
    if code in (409, 422):
        raise StaleObject(text, retry_after_s=seconds)
    if code in (400, 401, 403, 405, 415):
        raise Rejected(text, retry_after_s=seconds)
    raise Unavailable(text, status=code, retry_after_s=seconds, body=body)
