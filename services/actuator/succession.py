"""Which of several actuators is in charge of a target, and when a standby actuator takes over.

The record on the workload counts terms: a later actuator takes the next term with its first write, and the
others become standby.  A standby actuator still receives decisions.  If a write is due and missing, it concludes
that the one in charge is gone, and takes the next term.  With a Lease its holder is in charge, and takes the next term
with its next write; the others wait for the Lease alone.  The times are seconds by a steady clock.
"""

from collections.abc import Callable

from services.actuator.lease import Charge
from services.actuator.ownership import OwnershipRecord

_LAPSED_S = 0.5
"""How long after the dead-man fired the one in charge has to apply the fail-safe limit, at most."""
_LEASED_S = 1.0
"""How often to look again while another holds the Lease."""
_RIVAL_S = 600.0
"""Another actuator that has written nothing for so long no longer counts as running."""


class Succession:
    """One target's actuator in charge, as this process sees it."""

    def __init__(self, process: str, dead_man_s: float, charge: Callable[[float], Charge]) -> None:
        """Begin without a term; ``process`` names this actuator, and ``charge`` asks the Lease who acts."""
        self._charge = charge
        self.term: int | None = None
        """This process's term, once it has written the workload."""
        self._process = process
        self._dead_man_s = dead_man_s
        self._missing_since: float | None = None
        """Since when a due write has been missing."""
        self._last_seen = ""
        """The last action of the one in charge."""
        self._lost = 0
        """How often a take-over was undone by another."""
        self._rival_at = float("-inf")
        self._wrote_at = float("-inf")

    def define(self, dead_man_s: float) -> None:
        """Go by another dead-man time from now on."""
        self._dead_man_s = dead_man_s

    def is_deposed(self, record: OwnershipRecord | None, now: float) -> bool:
        """Whether another is in charge: by the Lease, or because it wrote later; ``record`` is the workload's."""
        charge = self._charge(now)
        if charge is Charge.MINE:
            if record is not None and record.by != self._process:
                self.term = None  # of the next write, which then is later than the other's
            return False
        if charge is Charge.OTHERS:
            return True
        if record is None or self.term is None or record.by == self._process or record.term < self.term:
            return False
        if record.action != self._last_seen:
            self._last_seen = record.action
            self._missing_since = None
            self._rival_at = now
        return True

    def is_settled(self) -> None:
        """Nothing is left to write."""
        self._missing_since = None

    def take_over(self, now: float, *, has_cut: bool, has_lapsed: bool) -> float:
        """Take the target over if the one in charge has not written what is missing for too long.

        Args:
            now: by the steady clock.
            has_cut: whether an object may send more than it should.
            has_lapsed: whether there is no decision, so that the fail-safe limit is due.

        Returns:
            After how many seconds to ask again; not positive: this process is in charge now.
        """
        if self._charge(now) is Charge.OTHERS:
            self._missing_since = None
            return _LEASED_S  # the Lease wakes this process when that changes
        if self._missing_since is None:
            self._missing_since = now
        if has_lapsed:
            patience_s = min(_LAPSED_S, self._dead_man_s / 10)
        elif has_cut:
            patience_s = self._dead_man_s / 2
        else:
            # A raise can wait; two with different bounds must not take turns.
            patience_s = 2 * self._dead_man_s * 2 ** min(self._lost, 6)
        left_s = self._missing_since + patience_s - now
        if left_s <= 0:
            self._lost += not (has_cut or has_lapsed)
            self.term = self._missing_since = None
        return left_s

    def reset(self) -> None:
        """Another object has taken the workload's place."""
        self.term = self._missing_since = None

    def wrote(self, term: int, now: float) -> None:
        """This process has written the workload."""
        self.term, self._wrote_at = term, now

    def proof_due_s(self, now: float) -> float | None:
        """In how many seconds to write the record again, as a sign of life for a standby; None: none waits for one."""
        if now - self._rival_at > _RIVAL_S or self._charge(now) is Charge.MINE:
            return None
        return self._wrote_at + self._dead_man_s / 2 - now
