"""The parameters of ``learned``, and what it remembers."""

from typing import Annotated

from msgspec import Struct, field

from schemas.settings import Settings, Share, between
from services.control.policies.learned.gain import Gain
from services.control.policies.learned.knee import Knee, KneeSettings
from services.control.policies.learned.load_forecast import ForecastSettings, LoadHistory, Season

_Ratio = Annotated[float, between(0, 10)]


class LearnedParameters(Settings, frozen=True):
    """Settings of the policy.  Shares are of the capacity, latencies are ratios to the P95's SLO."""

    margin: Share = 0.0075
    """Least distance to the knee, as a share of the capacity."""
    margin_max: Share = 0.25
    """Largest distance to the knee, as a share of the capacity."""
    eta: Share = 0.01
    """What a burst adds to the margin at least, as a share of the capacity."""
    stair: Share = 0.08
    """The margin has room for a rise that stayed and broke an SLO, if it is smaller than this share of the capacity."""
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
    tail: _Ratio = 0.15
    """Rise of the window's P95 over its usual value that ends a probe, where the median has begun to rise, too."""
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


class Blame(Struct, frozen=True, omit_defaults=True, gc=False):
    """Violations at rest, all alike, that lowered the knee: if they go on, the load did not cause them."""

    count: int = 0
    total: float = 0.0
    """The knee before the first of them, kbit/s."""
    stress: float = 0.0
    """Of the first of them."""
    last: int = 0
    """When the last one was, ns."""
    excused: int = 0
    """Until when such violations are ignored, ns."""


class LearnedMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """All that the policy remembers.  Latencies are ratios to the P95's SLO."""

    knee: Knee = Knee()
    load: LoadHistory = LoadHistory()
    season: Season = Season()
    margin: float = 0.0
    """kbit/s."""
    usual: tuple[float, ...] = ()
    """Median latency of each critical workload without a queue; empty before the first sample."""
    tail: float = 0.0
    """The usual P95 of the window without a queue, the least over the workloads; 0 before the first sample."""
    recent_p50: float = field(default=0.0, name="median")
    """Least median latency of the last period."""
    rise: float = 0.0
    """By how much the medians were above their usual values."""
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
    passed: tuple[float, ...] = ()
    """Total loads of the last periods in a row that passed without a queue, at most four; kbit/s."""
    gain: Gain = Gain()
    scale: float = 0.0
    """What shares are of where no capacity is configured, kbit/s; 0 where one is."""
    distrusted: int = 0
    """Until when the configured capacity is not believed, ns."""
    blame: Blame = Blame()
    broke: float = 0.0
    """How many times the knee was met by breaking an SLO, as far as that is remembered."""
    flowed: float = 0.0
    """What was measured in all in the last period, kbit/s; 0 if not everything was."""
