"""Where a limit comes from.  Not a message: a part of what the actuator keeps and reports."""

from typing import Any

from msgspec import Struct

from schemas.numbers import Count, Time


class Provenance(Struct, frozen=True, gc=False):
    """Where a limit comes from: what orders, records on objects and actions carry of a decision.  Times are UTC ns.

    A limit that answers no decision (a dead-man's, say) keeps the epoch, sequence and end of the one before it.
    """

    decision: str | None = None
    """Id of the decision; None where the limit answers none."""
    epoch: Time = 0
    seq: Count = 0
    end: Time | None = None
    """End of the decision's sample: the fence."""
    decided: Time | None = None
    """When the decision was published."""
    expires: Time | None = None
    """Until when it holds; None: until something better is known."""

    @property
    def fields(self) -> dict[str, Any]:
        """These fields, for another struct of the same provenance."""
        return {name: getattr(self, name) for name in Provenance.__struct_fields__}

    @property
    def in_action(self) -> dict[str, Any]:
        """The fields of an ``Action`` that say where its limit comes from."""
        return {
            "decision": self.decision,
            "epoch": self.epoch,
            "seq": self.seq,
            "sampled": self.end if self.decision else None,
            "decided": self.decided,
        }
