"""``sqm-autorate``: back to a rate that was safe before, up by a share that shrinks toward the best of those.

    delayed:               T <- min(a rate that was safe before, ``down`` x load)
    load above high_load:  T <- T (1 + up (1 - T / best)+) + base_up x base
    else:                  T as it is

T is the shaper's rate for all traffic, here the sum of the critical load L and the best-effort limits; so u = T - L.
Each loaded sample without delay adds its load to the safe rates, of which ``best`` is the highest.  Source of the
rule and of the factors: github.com/sqm-autorate/sqm-autorate, ``lib/ratecontroller_ewma.lua``, which draws the safe
rate at random and begins with drawn ones; here the sample's time picks it, so that a replay picks the same, and none
is safe before it was measured.
"""

from typing import Annotated

from msgspec import Struct

from schemas.domain import Domain
from schemas.settings import Settings, Share, between
from services.control.observation import Observation
from services.control.policies.parameters import read_parameters
from services.control.policy import Bounds, Proposal


class SqmAutorateParameters(Settings, frozen=True):
    """The factors."""

    down: Share = 0.9
    """Of the load, after a delay."""
    up: Share = 0.1
    """Rise of a rate far below the best one, in a step."""
    base_up: Share = 0.03
    """Rise in a step, as a share of the base rate: the fail-safe limits and the critical load."""
    high_load: Share = 0.8
    """Share of the rate from which the link counts as loaded."""
    history: Annotated[int, between(1, 100, unit="rates")] = 20
    """How many safe rates are kept."""


class SqmAutorateMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """The rates that were safe."""

    safe: tuple[int, ...] = ()
    """kbit/s, the oldest first."""
    quiet_until: int = 0
    """Windows that start before still see the traffic before the last cut, ns."""


class SqmAutorate:
    """Safe rates of the past."""

    version = "sqm-autorate/1"
    memory_type = SqmAutorateMemory
    parameters_type = SqmAutorateParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's factors.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._factors = read_parameters(domain, SqmAutorateParameters)

    def propose(self, memory: SqmAutorateMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Fall back to a safe rate, or rise above the last one."""
        factors, critical = self._factors, seen.critical_recent or 0
        rate = bounds.level + critical
        sent = bounds.limit if seen.target_recent is None else seen.target_recent
        load = (sent + critical) / rate if rate else 0.0
        if seen.violated:
            if seen.end - seen.window < memory.quiet_until:
                return Proposal(bounds.limit, "waits until a window lies after the last cut", memory)
            down = factors.down * rate * min(load, 1.0)
            if memory.safe:
                down = min(down, memory.safe[seen.end // seen.period % len(memory.safe)])
            kept = SqmAutorateMemory(memory.safe, seen.end + seen.period)
            return Proposal(max(int(down) - critical, 0), "delayed: back to a safe rate", kept)
        if load < factors.high_load:
            return Proposal(bounds.level, "not loaded: keeps the rate", memory)
        safe = (*memory.safe, int(rate * min(load, 1.0)))[-factors.history :]
        rise = factors.up * max(1 - rate / max(safe), 0.0)
        more = rate * (1 + rise) + factors.base_up * (bounds.fail_safe + critical)
        kept = SqmAutorateMemory(safe, memory.quiet_until)
        return Proposal(max(int(more) - critical, 0), "loaded without delay: rises", kept)
