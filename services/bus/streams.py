"""Configuration of the streams, and how an existing one differs from it.  No I/O."""

from collections.abc import Mapping
from typing import Any

from schemas.config import BusConfig
from services.bus.envelope import MAX_BODY
from services.bus.subjects import KINDS, Subjects

DEDUPLICATE_S = 120
"""How long the server remembers message ids: longer than any retry, shorter than any retention time."""
KEPT_DEFINITIONS = 128
"""Of each domain, for replays; they do not age, since the last one holds until another follows."""
_OF_DEFINITIONS = {"max_age": 0, "max_msgs_per_subject": KEPT_DEFINITIONS, "discard": "new"}
"""A domain's last definition never makes way for another's: a full stream refuses what it cannot keep."""


def build_configs(config: BusConfig, subjects: Subjects) -> list[dict[str, Any]]:
    """The configuration of every stream, in JetStream's own terms."""
    return [
        {
            "name": subjects.stream(kind),
            "subjects": [subjects.every(kind)],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": int(config.keep),
            "max_bytes": config.keep_bytes,
            "max_msg_size": MAX_BODY,
            "num_replicas": config.replicas,
            "duplicate_window": min(DEDUPLICATE_S * 10**9, int(config.keep)),
            "allow_direct": True,
            **(_OF_DEFINITIONS if kind == "definition" else {}),
        }
        for kind in KINDS
    ]


_UNSET = (None, False, 0, -1)
_NEVER_SET = (
    "sealed", "no_ack", "max_msgs", "max_msgs_per_subject", "max_consumers", "discard_new_per_subject", "mirror",
    "sources", "subject_transform", "republish",
)  # fmt: skip
"""Each of these would keep messages from being stored, acknowledged, found or read."""


def describe_differences(want: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """How an existing stream differs from its configuration; None where it does not."""
    # The server leaves out what is false or zero.
    differing = [key for key, value in want.items() if (found.get(key) or False) != (value or False)]
    differing += [key for key in _NEVER_SET if key not in want and found.get(key) not in _UNSET]
    if not differing:
        return None
    is_, should = (", ".join(f"{key} {of.get(key)}" for key in differing) for of in (found, want))
    return f"stream {want['name']} exists with {is_}; this configuration says {should}; it was left as it is"
