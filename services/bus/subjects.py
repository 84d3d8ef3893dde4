"""Subjects and streams, with their patterns and wildcards.

    <prefix>.sample.v1.<domain>
    <prefix>.definition.v1.<domain>
    <prefix>.decision.v1.<domain>
    <prefix>.action.v1.<domain>.<namespace>.<name, or kind/name>
    <prefix>.dead.v1.<service>

The prefix is ``sluice``, or another one for a replay that the live services must not receive.
"""

import re
from functools import lru_cache

DEFAULT_PREFIX = "sluice"
KINDS = ("sample", "definition", "decision", "action", "dead")

_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_PREFIX = re.compile(r"[a-z0-9-]+")


@lru_cache(4096)
def token(name: str) -> str:
    """Write a name as one subject token: bytes other than letters, digits, ``-`` and ``_`` become ``=XX``.

    Dots are legal in Kubernetes names and separate tokens on the bus.
    """
    return "".join(chr(b) if _PLAIN.match(chr(b)) else f"={b:02X}" for b in name.encode()) or "="


def parse_token(tok: str) -> str:
    """Read a token back.

    Raises:
        ValueError: ``tok`` was not made by ``token``.
    """
    if tok == "=":
        return ""
    parts = re.fullmatch(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+", tok)
    if parts is None:
        raise ValueError(f"{tok!r} is not a token")
    raw = re.sub(r"=([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), tok).encode("latin-1")
    return raw.decode()


class Subjects:
    """The subjects and streams under one prefix."""

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        """Check the prefix.

        Raises:
            ValueError: the prefix is not one lowercase token.
        """
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"bus prefix {prefix!r}: expected lowercase letters, digits and '-'")
        self.prefix = prefix

    def sample(self, domain: str) -> str:
        """Where the sampler publishes a domain's samples."""
        return f"{self.prefix}.sample.v1.{token(domain)}"

    def definition(self, domain: str) -> str:
        """Where the actuator in charge publishes a domain's definitions."""
        return f"{self.prefix}.definition.v1.{token(domain)}"

    def decision(self, domain: str) -> str:
        """Where the decision service publishes a domain's decisions."""
        return f"{self.prefix}.decision.v1.{token(domain)}"

    def action(self, domain: str, target: str) -> str:
        """Where the actuator reports on a target, given by its key, see ``Target.key``."""
        namespace, _, name = target.partition("/")
        return f"{self.prefix}.action.v1.{token(domain)}.{token(namespace)}.{token(name)}"

    def dead(self, service: str) -> str:
        """Where a service stores dead letters."""
        return f"{self.prefix}.dead.v1.{token(service)}"

    def every(self, kind: str) -> str:
        """The pattern of all subjects of a kind."""
        return f"{self.prefix}.{kind}.v1.>"

    def stream(self, kind: str) -> str:
        """The stream that stores a kind: ``SLUICE_SAMPLE``."""
        return f"{self.prefix}_{kind}".upper().replace("-", "_")

    def kind_of(self, subject: str) -> str:
        """The kind of message that belongs on a subject.

        Raises:
            ValueError: it is not a subject of this prefix.
        """
        parts = subject.split(".")
        if len(parts) < 4 or parts[0] != self.prefix or parts[1] not in KINDS or parts[2] != "v1":
            raise ValueError(f"{subject!r} is not a subject of {self.prefix}")
        return parts[1]
