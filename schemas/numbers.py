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
Rate = Annotated[int, Meta(ge=-(10**15), le=10**15)]
"""kbit/s, at most 1 Ebit/s; a negative one can be read, and is then corrected by bounds."""
Load = Annotated[int, Meta(ge=0, le=10**12)]
"""Measured, kbit/s."""
