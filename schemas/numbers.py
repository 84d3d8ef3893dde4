"""The numbers in messages: what they count, in which unit, and how far they may go."""

from typing import Annotated

from msgspec import Meta

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""No number needs more than 64 bits; a larger one could not even be divided."""
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=-(2**62), le=2**62)]
"""UTC ns, 1823 to 2116: a date for every library, with room to add durations."""
Period = Annotated[int, Meta(ge=1, le=24 * 3600 * 10**9)]
"""ns, one day at most."""
MOST_RATE = 10**15
"""kbit/s: an annotation of anybody else may say more, and counts as this where it is reported."""
Rate = Annotated[int, Meta(ge=-MOST_RATE, le=MOST_RATE)]
"""kbit/s, at most 1 Ebit/s; a negative one can be read, and is then corrected by bounds."""
Term = Annotated[int, Meta(ge=0, le=2**62)]
"""Counts the actuators that have been in charge: with room to add to it."""
Load = Annotated[int, Meta(ge=0, le=10**12)]
"""Measured, kbit/s."""
