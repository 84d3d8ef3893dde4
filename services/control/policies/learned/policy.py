"""``learned``: remembers the knee, touches it without crossing, and leaves room for the load to come.

The law itself is in ``law.py``.  Here is decided what it may go by:

    scale     without a configured capacity, shares are of the load that flows, and then of the knee
    slow      by signals with more than two seconds of lag and no medians, a knee cannot be touched without crossing:
              ``heracles`` decides by the configured capacity, unless violations show that it is not there
"""

from msgspec.structs import replace

from schemas.domain import Domain
from services.control.observation import Observation
from services.control.policies.heracles import Heracles
from services.control.policies.learned.knee import Knee
from services.control.policies.learned.law import Law
from services.control.policies.learned.memory import LearnedMemory, LearnedParameters
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, NoMemory, Proposal

_SLOW = 4 * 10**9
"""A window that is longer lags by more than two seconds, ns."""
_FAR = 0.8
"""A knee below this share of the configured capacity shows that it is not there."""
_DISTRUST = 600 * 10**9
"""For how long it is then not believed, ns."""
_SPARE = 1.2
"""Scale of a load that has not met its knee yet, in multiples of the load."""
_CAUTION, _INHERITED_REST = 0.97, 10.0
"""Share of an inherited knee that is believed, and seconds until it is probed."""
_GROWN, _SHRUNK = 1.1, 0.6
"""The scale is changed where it is so far from what it should be: seasons are kept in its units."""


class Learned:
    """Safe total load minus the critical load to come, minus a margin."""

    version = "learned/5"
    memory_type = LearnedMemory
    parameters_type = LearnedParameters

    def __init__(self, domain: Domain) -> None:
        """Read the domain's capacity, SLOs and parameters.

        Raises:
            ValueError: a parameter is unknown, of the wrong type, or outside its range.
        """
        self._parameters = read_parameters(domain, LearnedParameters)
        self._slo = min(one.p95 for one in domain.critical) / 1e9
        self._known = domain.capacity is not None
        self._capacity = float(nameplate(domain))
        self._law = Law(self._parameters, self._slo, self._capacity)
        self._slow = Heracles(replace(domain, parameters={}))

    def inherit(self, memory: LearnedMemory, ratio: float, end: int) -> LearnedMemory:
        """Begin a little below another's knee, with its margin and season; what is the node's own is learned afresh."""
        if not memory.knee.met:
            return LearnedMemory()
        total = _CAUTION * ratio * memory.knee.total
        return LearnedMemory(
            knee=Knee(total, end, _INHERITED_REST, found=total),
            season=memory.season,
            margin=ratio * memory.margin,
            scale=ratio * memory.scale,
        )

    def propose(self, memory: LearnedMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Learn from the sample, then leave room for the load to come."""
        if not self._known:
            scale = _follow_scale(memory, bounds)
            if scale != self._law.scale:
                # It changes rarely: what the law computes from it is kept until then.
                self._law = Law(self._parameters, self._slo, scale, scale)
            return self._law.propose(memory, seen, bounds)
        proposal = self._law.propose(memory, seen, bounds)
        if seen.window <= _SLOW or seen.medians is not None or seen.end < memory.distrusted:
            return proposal
        kept: LearnedMemory = proposal.memory
        if seen.violated and kept.knee.met == seen.end and kept.knee.total < _FAR * self._capacity:
            # The queue shows that much less than the configured capacity is there.
            return Proposal(
                proposal.budget, proposal.reason, replace(kept, distrusted=seen.end + _DISTRUST), proposal.link
            )
        simple = self._slow.propose(NoMemory(), seen, bounds)
        return Proposal(simple.budget, f"slow signals: {simple.reason}", kept, proposal.link)


def _follow_scale(memory: LearnedMemory, bounds: Bounds) -> float:
    """What shares are of where no capacity is configured, kbit/s."""
    scale, knee = memory.scale, memory.knee
    wanted = knee.total if knee.met else _SPARE * (bounds.limit * memory.pods + max(memory.load.last, 0.0))
    if not scale or wanted > _GROWN * scale or (knee.met and wanted < _SHRUNK * scale):
        return max(wanted, 1.0)
    return scale
