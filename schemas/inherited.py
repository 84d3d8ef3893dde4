"""What a new instance of a definition takes over from another one: a part of its first decision."""

from typing import Any

from msgspec import Struct

from schemas.numbers import Count


class Inherited(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the first decision of a new instance took over from another instance of its definition."""

    domain: str
    """The other instance."""
    seq: Count
    """Stream sequence of its decision that this was taken from."""
    policy: str
    """Name and version of the policy that the memory belongs to."""
    memory: Any
    """That policy's memory."""
    ratio: float = 1.0
    """This instance's configured capacity, in multiples of the other's."""
