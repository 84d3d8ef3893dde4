"""The bottleneck as a policy sees it; a part of decisions."""

from msgspec import Struct

from schemas.numbers import Rate, Time


class LinkEstimate(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a policy knows of the bottleneck: the figures from which its proposal comes.  Rates are kbit/s."""

    safe: Rate
    """B: the largest total load, critical and best effort, that builds up no queue, as far as is known."""
    expected: Rate
    """F: the critical load to come."""
    margin: Rate
    """lambda: what is kept free for bursts."""
    headroom: Rate
    """What that leaves for best effort; negative where even the critical load is too much."""
    lesson: str
    """What this sample taught, in a word or three: ``steady``, ``probes``, ``touched``."""
    met: Time = 0
    """When a queue last showed where the safe load ends, UTC ns; 0 before it ever did."""
