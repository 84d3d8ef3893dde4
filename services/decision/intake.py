"""Where a replica's samples come from: one consumer of all domains, or one for each partition of them.

Without a number of its own, a replica takes samples of any domain from the consumer that all replicas share.  With one,
it asks for every partition's samples at its rank, and the server sends them to the lowest rank that asks.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schemas.sharding import Sharding
from services.bus.partitions import PARTITIONS, find_partition, find_rank
from services.bus.sharing import Share, SharedSubjects

NAME = "decision"
"""The service's name, and the start of its durable consumers' names."""


@dataclass
class Intake:
    """One consumer, as this replica reads it; times are seconds by a steady clock."""

    consumer: str
    rank: int | None = None
    """This replica's, where replicas share the consumer by ranks."""
    subjects: SharedSubjects = field(default_factory=SharedSubjects)
    """Of the samples; unused without a rank."""
    domains: dict[str, None] = field(default_factory=dict)
    """Whose samples it delivers, to this replica or another; in order."""
    taken_at: float = field(default_factory=time.monotonic)
    """Since when samples come to this replica without a break."""
    delivered_at: float = field(default_factory=time.monotonic)
    """When a sample last came to this replica."""

    @property
    def share(self) -> Share | None:
        """How it is shared by ranks."""
        return None if self.rank is None else Share(self.subjects, self.rank)

    def note_delivery(self, break_s: float) -> None:
        """A sample came; after a break of so many seconds, another replica may have had the samples in between."""
        now = time.monotonic()
        if now - self.delivered_at > break_s:
            self.taken_at = now
        self.delivered_at = now

    def is_mine(self, now: float, within_s: float) -> bool:
        """Whether samples come to this replica: always, or by what came within some seconds."""
        return self.rank is None or now - self.delivered_at <= within_s


class Intakes:
    """A replica's consumers."""

    def __init__(self, sharding: Sharding, find_subject: Callable[[str], str], domains: Iterable[str]) -> None:
        """Divide the domains; ``find_subject`` gives the subject of a domain's samples."""
        self._find_subject = find_subject
        self.are_shared = sharding.replica is not None
        self.all: tuple[Intake, ...] = (Intake(NAME),)
        if sharding.replica is not None:
            self.all = tuple(
                Intake(f"{NAME}-{number}", find_rank(number, sharding.replica)) for number in range(PARTITIONS)
            )
            for intake in self.all:
                # Of no domain: a partition without any has its consumer, too.  KEDA takes the whole stream for the lag
                # of a consumer that is not there.
                intake.subjects.add(find_subject(""))
        for domain in domains:
            self.add(domain)

    def find(self, domain: str) -> Intake:
        """Where a domain's samples come from."""
        return self.all[find_partition(domain) if self.are_shared else 0]

    def add(self, domain: str) -> None:
        """Take a domain's samples from now on."""
        intake = self.find(domain)
        intake.domains[domain] = None
        if self.are_shared:
            intake.subjects.add(self._find_subject(domain))

    def remove(self, domain: str) -> None:
        """Take a domain's samples no longer."""
        intake = self.find(domain)
        intake.domains.pop(domain, None)
        if self.are_shared:
            intake.subjects.remove(self._find_subject(domain))
