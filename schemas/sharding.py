"""How several replicas of a service share the domains."""

from typing import Annotated

from schemas.settings import Settings, between

MOST_REPLICAS = 10
"""A NATS server knows the priorities 0 to 9."""


class Sharding(Settings, frozen=True):
    """Domains are divided into twelve partitions, and each replica works for its own.

    Without a number, replicas of the decision service take samples of any domain, and each sampler measures all.
    """

    replica: Annotated[int | None, between(0, MOST_REPLICAS - 1)] = None
    """This replica's number, from 0.  Overridden by SLUICE_REPLICA, where the number may end a name, as in a
    StatefulSet's Pod: ``sluice-decision-2``."""
    patches_per_second: Annotated[float, between(1, 100_000)] = 500.0
    """How many patches an actuator sends in a second at most; further ones wait, and cuts come first."""
