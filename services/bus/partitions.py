"""Which partition a domain belongs to, and which replica of a service comes first for a partition.  No I/O.

A partition is a fixed share of the domains, by a hash of their names.  Every replica has a rank of its own for each
partition, so that nobody has to know who else is there: the lowest rank of those that are there works for the
partition.  For any number of replicas 0 to n - 1 the partitions are shared evenly.  A further replica takes its share
from those before, and moves nothing else.
"""

from functools import cache
from hashlib import blake2b

from schemas.sharding import MOST_REPLICAS

PARTITIONS = 12
"""Shared evenly by one to four, six and twelve replicas."""


def find_partition(domain: str, partitions: int = PARTITIONS) -> int:
    """The partition of a domain, the same for every build and machine."""
    return int.from_bytes(blake2b(domain.encode(), digest_size=8).digest(), "big") % partitions


def find_rank(partition: int, replica: int) -> int:
    """The rank of a replica for a partition, 0 to 9: the lowest comes first."""
    return _rank_replicas()[partition].index(replica)


@cache
def _rank_replicas() -> tuple[tuple[int, ...], ...]:
    """For each partition all replicas by rank: each next one takes its share from those who have most."""
    orders: list[list[int]] = [[] for _ in range(PARTITIONS)]
    for replica in range(MOST_REPLICAS):
        owned = [order[0] for order in orders if order]
        taken = set(range(PARTITIONS)) if not owned else set[int]()
        while len(taken) < PARTITIONS // (replica + 1):
            richest = max(set(owned), key=lambda one: (owned.count(one), -one))
            owned.remove(richest)
            taken.add(next(p for p, order in enumerate(orders) if order[0] == richest and p not in taken))
        for partition, order in enumerate(orders):
            # Those behind the first stand in for it, and are spread by chance.
            place = 0 if partition in taken else 1 + find_partition(f"{partition}/{replica}", len(order))
            order.insert(place, replica)
    return tuple(tuple(order) for order in orders)
