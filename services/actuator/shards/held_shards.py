"""Whose decisions this actuator reads: those of the domains that no other actuator is in charge of.

With one Lease, or none, it reads all decisions, also while it stands by: it has them when it takes over.  With shards
it would decode every decision of a fleet to act on a part of them.  So the server sends it those of its own shards'
domains alone, by their subjects, and it looks the last ones up when it takes a shard over.
"""

from collections.abc import Callable, Collection, Sequence

from services.actuator.shards.lease import Charge, LeaseKeeper
from services.bus.partitions import find_partition
from services.bus.sharing import Share, SharedSubjects


class HeldShards:
    """The shards that this actuator acts on, as it noticed last, and the subjects of their domains' decisions."""

    def __init__(self, leases: Sequence[LeaseKeeper], find_subject: Callable[[str], str]) -> None:
        """Begin without a shard; ``find_subject`` gives the subject of a domain's decisions."""
        self._leases = leases
        self._find_subject = find_subject
        self._held = frozenset[int]()
        self.subjects = SharedSubjects()
        """Of the decisions; unused without shards."""

    @property
    def is_sharded(self) -> bool:
        """Whether several actuators share the domains."""
        return len(self._leases) > 1

    @property
    def share(self) -> Share | None:
        """How the consumer is shared: with nobody, but it reads these subjects alone."""
        return Share(self.subjects, 0) if self.is_sharded else None

    def find_shard(self, domain: str) -> int:
        """The shard of a domain."""
        return find_partition(domain, len(self._leases))

    def find_charge(self, domain: str) -> Callable[[float], Charge]:
        """Asks the Lease of a domain's shard who acts."""
        return self._leases[self.find_shard(domain)].charge

    def is_ours(self, domain: str) -> bool:
        """Whether this actuator acts on a domain, or may have to: no other is known to be in charge."""
        return not self.is_sharded or self.find_shard(domain) in self._held

    def notice_charge(self, now: float) -> Collection[int]:
        """Ask the Leases who is in charge, at a time by the steady clock; returns the shards that changed hands."""
        if not self.is_sharded:
            return ()
        before = self._held
        self._held = frozenset(
            shard for shard, lease in enumerate(self._leases) if lease.charge(now) is not Charge.OTHERS
        )
        return before ^ self._held

    def explain(self, shard: int) -> str | None:
        """What people should know about a shard; None where it is ours."""
        return None if shard in self._held else "another actuator is in charge of it; this one stands by"

    def read(self, domain: str, *, is_there: bool) -> None:
        """Read a domain's decisions from now on, where it is there and ours; otherwise no longer."""
        if not self.is_sharded:
            return  # the consumer reads all
        if is_there and self.is_ours(domain):
            self.subjects.add(self._find_subject(domain))
        else:
            self.subjects.remove(self._find_subject(domain))
