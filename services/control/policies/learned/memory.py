"""What ``learned`` is set to, and what it remembers."""

from msgspec import Struct, field

from services.control.policies.learned.knee import Habits, Knee
from services.control.policies.learned.load_forecast import Load, Outlook
from services.control.policies.learned.seasonality import Season


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings; shares are of the capacity."""

    margin: float = 0.0075
    """Least distance to the knee."""
    margin_max: float = 0.1
    eta: float = 0.01
    """What a burst adds to the margin, at least."""
    shaken: float = 0.7
    """From this stress on, the margin was too small for a burst, though no SLO was broken."""
    forget: float = 2000.0
    """Time constant with which the margin shrinks again, seconds."""
    explore: float = 0.08
    """Rise in a second while the knee is unknown and far."""
    near: float = 0.9
    """From this share of the nameplate capacity on, the unknown knee is taken to be near."""
    touch: float = 0.15
    """Rise of the median over its usual value, as a share of the P95's SLO, that means a queue."""
    hesitate: float = 0.07
    """A rise by this much stops a probe until it is gone or has become a touch."""
    drain: float = 0.3
    """Seconds in which a queue is to be drained after a surge."""
    down: float = 0.0075
    up: float = 0.01
    """Smaller changes of the limit are not made, unless the knee is being sought."""
    knee: Habits = field(default_factory=Habits)
    load: Outlook = field(default_factory=Outlook)


class Doubt(Struct, frozen=True, omit_defaults=True, gc=False):
    """Touches that lowering the load did not change: it may be that latency itself has risen."""

    touches: int = 0
    total: float = 0.0
    """The knee as it was known before the first of them, kbit/s."""
    above: float = 0.0
    """By how much the median was above its usual value then."""


class Memory(Struct, frozen=True, omit_defaults=True, gc=False):
    """All that is remembered."""

    knee: Knee = Knee()
    load: Load = Load()
    season: Season = Season()
    margin: float = 0.0
    """kbit/s."""
    usual: float = 0.0
    """Median latency without a queue, as a ratio to the P95's SLO; 0 before the first sample."""
    median: float = 0.0
    """The last one."""
    stress: float = 0.0
    """The last one."""
    settles: int = 0
    """Windows that start before this still see traffic from before the last cut, ns."""
    waits: int = 0
    """Periods that end before this still see the queue of the last touch, ns."""
    spiked: float = 0.0
    """Total load under which the last spike was seen, until it is over; kbit/s."""
    spikes: int = 0
    """Spikes since the knee was last touched, each soon after the one before."""
    last_spike: int = 0
    """When the last one was, ns."""
    doubt: Doubt = Doubt()
    pods: float = 1.0
    """How many times its limits best effort could last send; see ``Bounds.pods``."""
