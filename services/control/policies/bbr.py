"""``bbr``: the highest total that passed lately is the bandwidth, and is probed in cycles.

    B = the maximum, over ``filter`` seconds, of the critical load L and the best-effort throughput together
    u = gain x B - L, with a gain of 1 + probe for one step, 1 - probe for the next, and 1 for six

A violation takes ``backoff`` of B at once and empties the filter.  Source of the rule and of the cycle: Cardwell et
al., BBR, ACM Queue 14 (2016), as in Linux' ``net/ipv4/tcp_bbr.c``, and the back-off on loss of BBR v2, to 0.7
(BBRBeta in draft-cardwell-iccrg-bbr-congestion-control-02); there at the sender and in each round trip, here in each
period, with the filter's ten round trips as ten seconds.  The shortest round trip is not probed for: it is known to
be below the SLO.
"""

from typing import Annotated

from msgspec import Struct

from schemas.domain import Domain
from schemas.settings import Settings, Share, between
from services.control.observation import Observation
from services.control.policies.parameters import read_parameters
from services.control.policy import Bounds, Proposal

_CYCLE = 8
"""Steps of a cycle."""


class BbrParameters(Settings, frozen=True):
    """The cycle."""

    probe: Share = 0.25
    """How far a probe goes above the bandwidth, and the step after it below."""
    filter: Annotated[float, between(0.1, 600, unit="s")] = 10.0
    """How long a maximum counts."""
    backoff: Share = 0.3
    """What a violation takes of the bandwidth."""


class BbrMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """The filter and the cycle."""

    passed: tuple[tuple[int, int], ...] = ()
    """When (ns) how much passed, kbit/s: each less than the one before, the first is the maximum."""
    step: int = 0
    """Of the cycle."""
    quiet_until: int = 0
    """Windows that start before still see the traffic before the last cut, ns."""


class Bbr:
    """A maximum filter, probed in cycles."""

    version = "bbr/1"
    memory_type = BbrMemory
    parameters_type = BbrParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's cycle.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._cycle = read_parameters(domain, BbrParameters)

    def propose(self, memory: BbrMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Follow the cycle around the highest total that passed lately."""
        cycle, critical = self._cycle, seen.critical_recent or 0
        passed = critical + (bounds.limit if seen.target_recent is None else seen.target_recent)
        since = seen.end - int(cycle.filter * 1e9)
        kept = tuple(one for one in memory.passed if one[0] >= since and one[1] > passed)
        if seen.violated:
            if seen.end - seen.window < memory.quiet_until:
                return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
            best = int((kept[0][1] if kept else passed) * (1 - cycle.backoff))
            cut = BbrMemory(((seen.end, best),), 2, seen.end + seen.period)
            return Proposal(max(best - critical, 0), f"violation: bandwidth {best} kbit/s", cut)
        filtered = (*kept, (seen.end, passed))
        best = filtered[0][1]
        gain = {0: 1 + cycle.probe, 1: 1 - cycle.probe}.get(memory.step, 1.0)
        after = BbrMemory(filtered, (memory.step + 1) % _CYCLE, memory.quiet_until)
        return Proposal(max(int(gain * best) - critical, 0), f"{gain:.2f} of {best} kbit/s that passed", after)
