"""Whether a decision that was made again is the recorded one."""

from msgspec.structs import replace

from schemas.messages import Decision, encode


def is_same_decision(remade: Decision, recorded: bytes) -> bool:
    """Whether a decision made again is the recorded one, byte for byte.

    Older builds wrote neither ``link`` nor ``over`` and ``overruns``: what they recorded is compared without these.
    """
    if encode(remade) == recorded:
        return True
    if remade.link is None and not remade.state.over:
        return False
    return encode(replace(remade, link=None, overruns=(), state=replace(remade.state, over={}))) == recorded
