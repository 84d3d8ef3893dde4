"""The parameters of ``learned``, what it remembers, and what a sample shows beside that."""

from typing import Annotated

from msgspec import Struct, field

from schemas.settings import Settings, Share, between
from services.control.policies.learned.knee import Knee, KneeSettings
from services.control.policies.learned.load_forecast import ForecastSettings, LoadHistory, Season

_Ratio = Annotated[float, between(0, 10)]


class LearnedParameters(Settings, frozen=True):
    """Settings of the policy.  Shares are of the capacity, latencies are ratios to the P95's SLO."""

    margin: Share = 0.0075
    """Least distance to the knee, as a share of the capacity."""
    margin_max: Share = 0.1
    """Largest distance to the knee, as a share of the capacity."""
    eta: Share = 0.01
    """What a burst adds to the margin at least, as a share of the capacity."""
    shaken: _Ratio = 0.7
    """Stress from which a surge shows that the margin was too small, though no SLO was broken."""
    forget: Annotated[float, between(1, 10_000_000, unit="s")] = 2000.0
    """Time constant with which the margin shrinks again."""
    explore: Share = 0.08
    """Rise in a second while the knee is unknown and far, as a share of the capacity."""
    near: Annotated[float, between(0.01, 1)] = 0.9
    """Share of the capacity from which an unknown knee is taken to be near."""
    touch: _Ratio = 0.15
    """Rise of the median latency over its usual value that means a queue, as a share of the P95's SLO."""
    hesitate: _Ratio = 0.07
    """Rise of the median latency that stops a probe until it is gone or has become a touch."""
    drain: Annotated[float, between(0.01, 3600, unit="s")] = 0.3
    """Time in which a queue is to be drained after a surge."""
    down: Share = 0.0075
    """Smaller cuts are not made unless the knee is being sought, as a share of the capacity."""
    up: Share = 0.01
    """Smaller raises are not made unless the knee is being sought, as a share of the capacity."""
    knee: KneeSettings = field(default_factory=KneeSettings)
    """How the knee is sought."""
    load: ForecastSettings = field(default_factory=ForecastSettings)
    """How the critical load is forecast."""


class Doubt(Struct, frozen=True, omit_defaults=True, gc=False):
    """Touches that a lower load did not change: latency itself may have risen."""

    touches: int = 0
    total: float = 0.0
    """The knee as it was known before the first of them, kbit/s."""
    rise: float = field(default=0.0, name="above")
    """By how much the median was above its usual value then."""


class LearnedMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """All that the policy remembers.  Latencies are ratios to the P95's SLO."""

    knee: Knee = Knee()
    load: LoadHistory = LoadHistory()
    season: Season = Season()
    margin: float = 0.0
    """kbit/s."""
    usual: float = 0.0
    """Median latency without a queue; 0 before the first sample."""
    recent_p50: float = field(default=0.0, name="median")
    """Median latency of the last period."""
    stress: float = 0.0
    """Stress of the last sample."""
    settles: int = 0
    """Windows that start before this still see traffic from before the last cut, ns."""
    waits: int = 0
    """Periods that end before this still see the queue of the last touch, ns."""
    spiked: float = 0.0
    """Total load at the last spike, until it is over; kbit/s."""
    spikes: int = 0
    """Spikes since the knee was last touched, each soon after the one before."""
    last_spike: int = 0
    """When the last one was, ns."""
    doubt: Doubt = Doubt()
    pods: float = 1.0
    """How many times its limits best effort could last send; see ``Bounds.pods``."""


class Evidence(Struct, frozen=True, gc=False):
    """What one sample shows, compared with the memory.

    Rates are kbit/s over the last period; latencies are ratios to the P95's SLO.
    """

    seconds: float
    """Length of the period."""
    critical_load: float
    """Critical throughput, as far as it can be trusted."""
    total_load: float
    """Critical and best effort together."""
    allowed_load: float
    """The total load if best effort had filled its limits."""
    throughput: float | None
    """What was measured in all; None where not everything is measured."""
    full: bool
    """Whether best effort filled its limits: only then does the load show anything about the knee."""
    hungry: bool
    """Whether best effort would use more than its limits."""
    recent_p50: float
    """Median latency over the last period."""
    rise: float
    """By how much that is above its usual value."""
    rise_before: float
    """The same a period ago."""
    queued: bool
    """There is a queue: the median rose by as much as a touch does."""
    queue_persists: bool
    """There is a queue, as a period ago, and it does not shrink."""
    surge: bool
    """The critical load is above its forecast."""
    load_rises: bool
    """The critical load is well above that of the period before."""
    load_rose: bool
    """The critical load rose by much, this period or last, within what was forecast or not."""
    new_violation: bool
    """An SLO is broken, and not by traffic that a cut has ended already."""
    near_violation: bool
    """The stress is high enough to show that the margin was too small."""
    settling: bool
    """The window still sees traffic from before the last cut."""
    clean: bool
    """No SLO is broken, and nothing is settling."""
