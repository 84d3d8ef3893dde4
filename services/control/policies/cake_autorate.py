"""``cake-autorate``: a link's shaper rate follows its delay and its load.

    delayed:               T <- T x down, from ``down_least`` at one SLO to ``down_most`` at two; then wait
    load above high_load:  T <- T x (1 + up), with ``up`` falling to 0 as the latency goes from a third of the SLO to it
    else:                  T <- one step of ``decay`` toward the base rate

T is the shaper's rate for all traffic, here the sum of the critical load L and the best-effort limits; so u = T - L.
The base rate is the fail-safe limits and the critical load.  Source of the rule and of the factors: cake-autorate
3.3, github.com/lynxthecat/cake-autorate, ``cake-autorate.sh`` and ``defaults.sh`` (there the rate rises each time that
the achieved rate is measured, every 0.2 s, here with each sample; and delays of 30, 60 and 10 ms stand for one SLO, two
and a third).
"""

from schemas.domain import Domain
from schemas.settings import Settings, Share
from services.control.observation import Observation
from services.control.policies.parameters import read_parameters
from services.control.policy import Bounds, CutMemory, Proposal

_RISES_FULLY = 1 / 3
"""Of the SLO: up to this latency, the rate rises by all of ``up``."""


class CakeAutorateParameters(Settings, frozen=True):
    """The factors."""

    down_least: Share = 0.99
    """What a delay just above the SLO leaves of the rate."""
    down_most: Share = 0.75
    """What a delay of two SLOs leaves."""
    up: Share = 0.04
    """Rise of the rate with each sample while the link is loaded and the latency is low."""
    high_load: Share = 0.75
    """Share of the rate from which the link counts as loaded."""
    decay: Share = 0.01
    """Step toward the base rate in a second while it is not."""


class CakeAutorate:
    """The shaper's rate follows delay and load."""

    version = "cake-autorate/1"
    memory_type = CutMemory
    parameters_type = CakeAutorateParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's factors.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._factors = read_parameters(domain, CakeAutorateParameters)

    def propose(self, memory: CutMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Lower the rate by the delay, raise it under load, or return to the base rate."""
        factors, critical, second = self._factors, seen.critical_recent or 0, seen.period / 1e9
        stress = 2.0 if seen.lost > 0 else seen.stress or 0.0
        rate = bounds.level + critical
        if stress > 1:
            if seen.end - seen.window < memory.quiet_until:
                return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
            share = factors.down_least - (factors.down_least - factors.down_most) * min(stress - 1, 1.0)
            budget = int((bounds.limit + critical) * share) - critical
            return Proposal(max(budget, 0), f"delayed: {share:.0%} of the rate", CutMemory(seen.end + seen.period))
        sent = bounds.limit if seen.target_recent is None else seen.target_recent
        if sent + critical >= factors.high_load * rate:
            up = factors.up * min((1 - stress) / (1 - _RISES_FULLY), 1.0)
            return Proposal(int(rate * (1 + up)) - critical, f"loaded: {up:.1%} more", memory)
        base = bounds.fail_safe + critical
        step = factors.decay * second
        toward = max(rate * (1 - step), base) if rate > base else min(rate * (1 + step), base)
        return Proposal(max(int(toward) - critical, 0), "not loaded: toward the base rate", memory)
