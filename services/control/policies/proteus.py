"""``proteus``: PCC Proteus as a scavenger, which climbs a utility that falls with the deviation of the latency.

    U(x) = x^0.9 - b x dT/dt - c x P - d x sigma

x is the best-effort throughput in Mbit/s, T the latency in seconds, P the loss, sigma the deviation of the latency:
the measured interquartile range over 1.35.  Two rates are tried in turn, u (1 + trial) and u (1 - trial).  Their
utilities' difference is the gradient g, and the rate moves by ``gain`` x g, by more for each move in the same
direction, and by at most ``most`` of u.  Source of the rule, of b, c and d: Meng et al., PCC Proteus, SIGCOMM 2020,
Proteus-S, and its authors' code, github.com/PCCproject/PCC-Uspace, ``CalculateUtilityScavenger`` in
``src/pcc/pcc_utility_manager.cpp`` (there at the sender and in each round trip; here in each window).
"""

from typing import Annotated

from msgspec import Struct

from schemas.domain import Domain
from schemas.settings import Settings, Share, between
from services.control.observation import Observation
from services.control.policies.parameters import read_parameters
from services.control.policy import Bounds, Proposal

_PER_SIGMA = 1.35
"""The interquartile range of a normal distribution, as a multiple of its standard deviation."""


class ProteusParameters(Settings, frozen=True):
    """The utility's weights, and the steps."""

    latency: Annotated[float, between(0, 100_000)] = 900.0
    """b, of the latency's slope."""
    loss: Annotated[float, between(0, 100_000)] = 11.35
    """c, of the loss."""
    deviation: Annotated[float, between(0, 100_000)] = 1500.0
    """d, of the latency's deviation: what makes it a scavenger."""
    trial: Share = 0.05
    """How far the two rates on trial lie from the current one."""
    gain: Annotated[float, between(0, 100)] = 1.0
    """Mbit/s for each unit of gradient."""
    most: Share = 0.15
    """Largest move, as a share of the rate."""


class ProteusMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """The trial that runs."""

    rate: int = 0
    """The rate around which two are tried, kbit/s; 0 before the first trial."""
    high: float | None = None
    """Utility of the higher of the two; None while it is being tried."""
    until: int = 0
    """When the running trial's window ends, ns."""
    before: float = 0.0
    """Latency at the end of the last trial, as a ratio to the SLO."""
    moves: int = 0
    """Moves in the same direction, negative downward."""


class Proteus:
    """Gradient ascent on the scavenger's utility."""

    version = "proteus/1"
    memory_type = ProteusMemory
    parameters_type = ProteusParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's weights, and the SLOs that turn ratios into seconds.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._weights = read_parameters(domain, ProteusParameters)
        self._p95_s = min((int(one.p95) for one in domain.critical), default=0) / 1e9
        self._jitter_s = min((int(one.jitter) for one in domain.critical), default=0) / 1e9

    def propose(self, memory: ProteusMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Try the higher rate, then the lower one, then move."""
        trial = self._weights.trial
        until = seen.end + seen.window + seen.period
        if not memory.rate:
            begun = ProteusMemory(rate=max(bounds.limit, 1), until=until, before=seen.p95)
            return Proposal(int(begun.rate * (1 + trial)), "tries a higher rate", begun)
        if seen.end < memory.until:
            return Proposal(bounds.level, "a trial runs", memory)
        utility = self._measure_utility(memory, seen, bounds)
        if memory.high is None:
            tried = ProteusMemory(memory.rate, utility, until, seen.p95, memory.moves)
            return Proposal(int(memory.rate * (1 - trial)), f"utility {utility:.1f}: tries a lower rate", tried)
        gradient = (memory.high - utility) / max(2 * trial * memory.rate / 1000, 1e-3)
        moves = (max(memory.moves, 0) + 1) if gradient > 0 else (min(memory.moves, 0) - 1)
        step = self._weights.gain * gradient * abs(moves) * 1000
        most = self._weights.most * memory.rate
        rate = max(int(memory.rate + min(max(step, -most), most)), bounds.min, 1)
        rate = min(rate, bounds.max)
        moved = ProteusMemory(rate, None, until, seen.p95, moves)
        return Proposal(int(rate * (1 + trial)), f"gradient {gradient:.2f}: tries around {rate} kbit/s", moved)

    def _measure_utility(self, memory: ProteusMemory, seen: Observation, bounds: Bounds) -> float:
        weights = self._weights
        sent = bounds.limit if seen.target_throughput is None else seen.target_throughput
        x = max(sent, 0) / 1000
        slope = max((seen.p95 - memory.before) * self._p95_s / (seen.window / 1e9), 0.0)
        sigma = seen.jitter * self._jitter_s / _PER_SIGMA
        loss = min(seen.lost / 1000, 1.0)
        earned: float = x**0.9
        return earned - x * (weights.latency * slope + weights.loss * loss + weights.deviation * sigma)
