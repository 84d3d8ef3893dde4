"""Rates and durations: integers in the code, people's notation in files.

A rate is an integer in kbit/s and is written as a Kubernetes quantity in bit/s (``50M``), which is
what ``kubernetes.io/egress-bandwidth`` takes.  A duration is an integer in nanoseconds and is
written as in Prometheus (``250ms``, ``1m30s``).
"""

import re
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

_BINARY = {f"{prefix}i": 1024**power for power, prefix in enumerate("KMGT", start=1)}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MULTIPLIERS = _DECIMAL | _BINARY
"""Factors of the suffixes that a rate may have."""
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")
_ANY_SUFFIX = {suffix: Decimal(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", *"kMGTPE"), start=-3)}
_ANY_SUFFIX |= {f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)}
_ANY_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))")
_BOUND = Decimal(400_000)
_MOST_BIT = Decimal(2**63 - 1)
"""Kubernetes reads any larger quantity as this one."""
_LEAST_BIT = 8
"""Cilium counts whole bytes, and takes a limit of none as no limit."""
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h)")

MAX_KBIT = 10**9
"""1 Tbit/s: beyond any link, so a larger number is a typing error."""
_MAX_NS = 10**18
"""31 years: a longer time is a typing error, and could not be added to a date."""


class Rate(int):
    """A bandwidth in kbit/s."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read a Kubernetes quantity of bit/s, rounded down to whole kbit/s.

        Raises:
            ValueError: ``text`` is no quantity, or outside 1 kbit/s to 1 Tbit/s.  Cilium takes an
                unreadable value, and one below 8 bit/s, as *unlimited*, so neither may pass.
        """
        match = _QUANTITY.fullmatch(text.strip())
        multiplier = MULTIPLIERS.get(match[2]) if match else None
        if match is None or multiplier is None:
            raise ValueError(f"{text!r} is not a rate: expected bit/s such as 50M, 2.5G or 800k")
        try:
            kbit = int(Decimal(match[1]) * multiplier / 1000)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is not a rate: {error}") from None
        if not 1 <= kbit <= MAX_KBIT:
            raise ValueError(f"{text!r} is outside the rates that can be set: 1k to 1T bit/s")
        return cls(kbit)

    @classmethod
    def enforced(cls, annotation: str | None) -> "Rate | None":
        """The limit that Cilium enforces for a bandwidth annotation of any writer; at least 1 kbit/s.

        Unlike ``parse`` this reads all that Kubernetes takes for a quantity: exponents, signs, every suffix.

        Args:
            annotation: its value; None where there is none.

        Returns:
            None where Cilium enforces no limit: without a value, with one that is no quantity, is
            negative, or rounds up to less than 8 bit/s.
        """
        match = _ANY_QUANTITY.fullmatch(annotation or "")
        factor = _ANY_SUFFIX.get(match[3] or "") if match else None
        if match is None or factor is None:
            return None
        # An annotation is too short for the digits that would make up for a larger exponent.
        exponent = int(max(-_BOUND, min(Decimal(match[2] or 0), _BOUND)))
        # Bounded on both sides before it becomes an integer: one of 400,000 digits takes seconds.
        rate = max(min(Decimal(match[1]).scaleb(exponent) * factor, _MOST_BIT), Decimal(0))
        bit = int(rate.to_integral_value(ROUND_CEILING))
        return cls(max(bit // 1000, 1)) if bit >= _LEAST_BIT else None

    def __str__(self) -> str:
        """Write the shortest exact quantity: ``50M``, ``2500k``."""
        if self and self % 1_000_000 == 0:
            return f"{self // 1_000_000}G"
        if self and self % 1000 == 0:
            return f"{self // 1000}M"
        return f"{int(self)}k"


class Duration(int):
    """A stretch of time in nanoseconds."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read ``250ms`` or ``1m30s``.

        Raises:
            ValueError: ``text`` is no duration, is zero, or is beyond 31 years.
        """
        parts = _DURATION.findall(text.strip())
        if not parts or "".join(number + unit for number, unit in parts) != text.strip():
            raise ValueError(f"{text!r} is not a duration: expected 250ms, 5s or 1m30s")
        exact = sum((Decimal(number) * _NANOSECONDS[unit] for number, unit in parts), Decimal(0))
        if exact > _MAX_NS:
            raise ValueError(f"{text[:100]!r} is not a duration: it must be below 31 years (10^18 ns)")
        total = int(exact)
        if total == 0:
            raise ValueError(f"{text!r} is not a duration: it must be above zero")
        return cls(total)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self / 1e9

    def __str__(self) -> str:
        """Write the largest unit that gives a whole number: ``1500ms``."""
        for unit, size in reversed(_NANOSECONDS.items()):
            if self and self % size == 0:
                return f"{self // size}{unit}"
        return "0ns"


def decode_unit(kind: type[Any], value: Any) -> Any:
    """Msgspec's ``dec_hook`` for the two types above.

    Raises:
        ValueError: ``value`` is not a string in the type's notation.
    """
    if kind is Rate or kind is Duration:
        if not isinstance(value, str):
            example = "50M" if kind is Rate else "500ms"
            raise ValueError(f"expected a quoted {kind.__name__.lower()} such as {example}, got {value!r}")
        return kind.parse(value)
    raise NotImplementedError(f"no decoder for {kind}")


def encode_unit(value: Any) -> str:
    """Msgspec's ``enc_hook`` for the two types above."""
    if isinstance(value, Rate | Duration):
        return str(value)
    raise NotImplementedError(f"no encoder for {type(value)}")
