"""Reads a policy's settings from a domain."""

from typing import TypeVar

import msgspec

from schemas.domain import Domain
from schemas.units import decode_unit

P = TypeVar("P")


def read_parameters(domain: Domain, kind: type[P]) -> P:
    """The domain's ``parameters`` as a policy's own type.

    Raises:
        ValueError: a parameter is unknown, of the wrong type, or outside its range.
    """
    return msgspec.convert(domain.parameters, kind, dec_hook=decode_unit)


def nameplate(domain: Domain) -> int:
    """The capacity that a policy goes by, kbit/s: the configured one, else all targets' maxima together."""
    return int(domain.capacity or sum(target.max for target in domain.targets))
