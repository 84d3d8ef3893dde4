"""Whether a decision that was made again is the recorded one."""

from msgspec.structs import replace

from schemas.messages import Decision, encode


def is_same_decision(remade: Decision, recorded: bytes) -> bool:
    """Whether a decision made again is the recorded one, byte for byte.

    Builds before ``Decision.link`` did not write it: what they recorded is compared without it.
    """
    if encode(remade) == recorded:
        return True
    return remade.link is not None and encode(replace(remade, link=None)) == recorded
