"""A Lease for all actuators, or for each shard: who holds it is in charge, and the others stand by.

The holder renews it five times in its duration.  A standby takes it once it has not changed for that long by its own
clock, so clocks need not agree.  The Lease only decides who acts: what an earlier holder may still send is fenced by
the terms and by the `test` operations of every patch.  Without an answer of the API server nobody is known to be in
charge, and `Succession` decides as it does without a Lease.

Numbered actuators have a rank for each shard, which is a part of the holder's name.  A lower rank takes the Lease from
a higher one, so that each shard gets to the actuator that it belongs to.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar, Protocol

import structlog
from msgspec import Struct

from schemas.config import Kubernetes
from schemas.sharding import MOST_REPLICAS
from services.common.backoff import BackOff
from services.kube.objects import KubeObject, NotFound, Rejected, StaleObject, Unavailable

_RENEWALS = 5
"""In a duration."""
_RELEASE_S = 1.0
_RANK_S = 0.05
"""How much longer each rank waits for a Lease that nobody holds."""
_REFUSED_S = (6.0, 24.0)
"""First and longest delay after the server refused the Lease: most often a right is missing, for long."""
_CONDITION = "lease"

_log = structlog.get_logger()


class Charge(Enum):
    """Who is in charge, as far as this process knows."""

    MINE = "mine"
    OTHERS = "others"
    UNKNOWN = "unknown"


class LeaseSpec(Struct, frozen=True, rename="camel"):
    """Who holds it."""

    holder_identity: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(KubeObject, frozen=True):
    """A Lease of coordination.k8s.io."""

    spec: LeaseSpec = LeaseSpec()

    kind: ClassVar[str] = "Lease"
    api_version: ClassVar[str] = "coordination.k8s.io/v1"
    plural: ClassVar[str] = "leases"


class LeaseClient(Protocol):
    """What a Lease needs of the API client."""

    async def read(self, kind: type[Lease], namespace: str, name: str) -> Lease:
        """Read an object."""

    async def patch(self, obj: Lease, operations: list[dict[str, Any]], *, is_urgent: bool) -> Lease:
        """Apply a JSON Patch to an object, and return the object that results."""


class LeaseKeeper:
    """Holds the Lease, or waits for it; times are seconds by a steady clock."""

    def __init__(
        self,
        client: LeaseClient,
        config: Kubernetes,
        process: str,
        on_change: Callable[[], None],
        set_condition: Callable[[str, str | None], None],
        *,
        shard: int = 0,
        replica: int | None = None,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: reads and patches.
            config: names the Lease; without one, nobody is ever known to be in charge.
            shard: whose Lease it is, where there are several shards.
            replica: this actuator's number, where it has one.
            process: this actuator.
            on_change: called when this process gains or loses it.
            set_condition: shows why the Lease cannot be used, or that it can (None).
        """
        self._client = client
        self._namespace, _, self._name = (config.lease or "").partition("/")
        self._condition = _CONDITION
        if config.shards > 1:
            self._name, self._condition = f"{self._name}-{shard}", f"{_CONDITION} {shard}"
        self._duration_s = config.lease_duration.seconds
        self._rank = None if replica is None else (replica - shard) % MOST_REPLICAS
        self._process = process if self._rank is None else f"{process}-rank-{self._rank}"
        self._on_change = on_change
        self._set_condition = set_condition
        self._lease: Lease | None = None
        """As it was last seen or written; None: to be read."""
        self._seen: tuple[str | None, str | None] = (None, None)
        # A process that starts waits for the first answer before it acts.
        self._seen_at = time.monotonic() if self._name else -math.inf
        self._is_new = True
        self._held_until = -math.inf
        self._is_refused = False

    def charge(self, now: float) -> Charge:
        """Who is in charge at this time."""
        if now < self._held_until:
            return Charge.MINE
        # After it has expired, those who wait have two rounds to take it.
        is_due = now >= self._seen_at + self._duration_s * (1 + 2 / _RENEWALS)
        is_others = self._is_new or self._seen[0] not in (None, self._process)
        return Charge.OTHERS if is_others and not is_due else Charge.UNKNOWN

    async def run(self) -> None:
        """Take and renew the Lease, for ever; give it back at the end."""
        if not self._name:
            return
        before: Charge | None = None
        refused, due = BackOff(*_REFUSED_S), -math.inf
        try:
            while True:
                started = time.monotonic()
                if started >= due:
                    await self._try_round(started)
                    refused = refused if self._is_refused else BackOff(*_REFUSED_S)
                    due = time.monotonic() + refused.next_s() if self._is_refused else -math.inf
                # It also lapses while nobody asks.
                now = self.charge(time.monotonic())
                if now is not before:
                    _log.info("lease", charge=now.value, holder=self._seen[0])
                    before = now
                    self._on_change()
                await asyncio.sleep(max(started + self._duration_s / _RENEWALS - time.monotonic(), 0.0))
        finally:
            if self.charge(time.monotonic()) is Charge.MINE and self._lease is not None:
                with suppress(Exception):
                    async with asyncio.timeout(_RELEASE_S):
                        await self._write(self._lease, None)

    async def _try_round(self, started: float) -> None:
        """Read the Lease unless it was just written, and write it if it is this process's or nobody's."""
        try:
            async with asyncio.timeout(self._duration_s / 2):
                if self._lease is None or self._seen[0] != self._process:
                    self._notice(await self._client.read(Lease, self._namespace, self._name))
                assert self._lease is not None
                holder = self._seen[0]
                # Those of a higher rank leave it to a lower one for a while.
                patience_s = (self._rank or 0) * _RANK_S
                has_expired = time.monotonic() >= self._seen_at + self._duration_s + patience_s
                is_free = holder in (None, "") and time.monotonic() >= self._seen_at + patience_s
                if holder == self._process or is_free or has_expired or self._comes_before(holder):
                    self._notice(await self._write(self._lease, self._process))
                    self._held_until = started + self._duration_s
        except StaleObject:
            self._lease = None  # somebody else was faster
        except (NotFound, Rejected, Unavailable, TimeoutError) as error:
            self._lease = None
            # What the server says of one Lease it says again; one that is busy or away may be back with the next round.
            self._is_refused = isinstance(error, (NotFound, Rejected))
            text = f"the Lease {self._namespace}/{self._name} cannot be used: {type(error).__name__} {error}".strip()
            self._set_condition(self._condition, text)
            return
        self._is_refused = False
        self._set_condition(self._condition, None)

    def _comes_before(self, holder: str | None) -> bool:
        """Whether the Lease belongs to this actuator rather than to its holder."""
        rank = (holder or "").rpartition("-rank-")[2]
        return self._rank is not None and rank.isdigit() and self._rank < int(rank)

    def _notice(self, lease: Lease) -> None:
        self._lease, self._is_new = lease, False
        seen = (lease.spec.holder_identity, lease.spec.renew_time)
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        if seen[0] != self._process:
            self._held_until = -math.inf  # a lower rank took it

    async def _write(self, lease: Lease, holder: str | None) -> Lease:
        """Write the holder, if the Lease still is as it was seen."""
        spec = lease.spec
        is_new = holder is not None and holder != spec.holder_identity
        desired = {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(self._duration_s),
            "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "leaseTransitions": (spec.lease_transitions or 0) + is_new,
        }
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": lease.metadata.resource_version},
            {
                "op": "add",
                "path": "/spec",
                "value": {key: value for key, value in desired.items() if value is not None},
            },
        ]
        return await self._client.patch(lease, operations, is_urgent=True)
