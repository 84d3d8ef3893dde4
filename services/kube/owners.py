"""The chain of owners of a Pod: Pod, Job, CronJob; Pod, ReplicaSet, Deployment, and whatever made that.

A Pod names the object that made it, and of that object the API server has to be asked.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from services.kube.client import T
from services.kube.objects import NotFound, Owner, Pod, Rejected, Workload, known_owners
from services.kube.workloads import WORKLOADS, discover_kind

_LONGEST = 6
"""Objects in a chain: more would be a loop."""
_REMEMBERED = 4096
"""Owners whose own owner is remembered."""


class OwnerClient(Protocol):
    """What following a chain needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""

    async def read(self, kind: type[T], namespace: str, name: str) -> T:
        """Read an object."""


class OwnerChains:
    """Follows Pods' owners; what it has read it remembers."""

    def __init__(self, client: OwnerClient) -> None:
        """Prepare; nothing is read yet."""
        self._client = client
        self._kinds: dict[tuple[str, str], type[Workload]] = {}
        self._above: OrderedDict[tuple[str, str], Owner | None] = OrderedDict()
        """By namespace and uid (or kind and name), who made an object."""

    async def follow(self, pod: Pod, is_worth: Callable[[Owner], bool]) -> tuple[Owner, ...]:
        """The owners of a Pod, the nearest first.

        Args:
            pod: whose.
            is_worth: whether the owner of this owner matters.

        Raises:
            Unavailable: the API server does not answer.
        """
        chain = list(known_owners(pod))
        while chain and len(chain) < _LONGEST and is_worth(chain[-1]):
            above = await self._find_above(chain[-1], pod.metadata.namespace)
            if above is None:
                break
            chain.append(above)
        return tuple(chain)

    async def _find_above(self, owner: Owner, namespace: str) -> Owner | None:
        """Who made an owner; None: nobody, or it may not be read."""
        key = (namespace, owner.uid or f"{owner.kind}/{owner.name}")
        if key in self._above:
            self._above.move_to_end(key)
            return self._above[key]
        try:
            kind = WORKLOADS.get(owner.kind)
            if kind is None or kind.api_version != owner.api_version:
                named = (owner.api_version, owner.kind)
                if named not in self._kinds:
                    self._kinds[named] = await discover_kind(self._client, *named)
                kind = self._kinds[named]
            found = await self._client.read(kind, namespace, owner.name)
        except NotFound:
            return None  # it is gone, and so will be the Pod
        except Rejected:
            above = None
        else:
            if owner.uid not in ("", found.uid):
                return None
            above = next((one for one in found.metadata.owner_references if one.controller), None)
        self._above[key] = above
        if len(self._above) > _REMEMBERED:
            self._above.popitem(last=False)
        return above
