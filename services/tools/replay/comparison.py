"""What another policy or configuration would have decided on a recorded stream.

The recorded plant does not react: its latency is what it was under the limits of that time.  So the
statistics say what a policy would have set, and never what latency that would have caused.
"""

from msgspec import Struct, structs

from schemas.domain import Domain
from schemas.messages import Decision, Sample, State, TargetDecision
from schemas.numbers import Integer
from services.control import Controller, RejectedSample

_MOST_WAITING = 1000

CAVEAT = (
    "A replay cannot tell what latency other limits would have caused: the recorded plant does not react to them. "
    "The table shows what each policy would have set on the latency that was measured."
)


class PolicyStatistics(Struct):
    """What one policy set in one domain; rates are the sums over the domain's targets, kbit/s."""

    samples: int = 0
    blind: int = 0
    """Samples without data."""
    violated: int = 0
    """Samples with a broken SLO: a fact of the record, the same under every policy."""
    limits: int = 0
    """The sum of the limits over all samples; the mean is this by ``samples``."""
    lowest: int | None = None
    highest: int | None = None
    changes: int = 0
    """Decisions that changed a limit: patches, at the least."""
    cuts: int = 0
    """Limits that the shield cut."""
    shielded: int = 0
    """Decisions in which the shield changed a proposal."""
    faults: int = 0
    above: int = 0
    """Samples on which the limits were above the recorded ones."""
    below: int = 0
    first: int = 0
    """End of the first sample, UTC ns."""
    last: int = 0

    @property
    def mean(self) -> float | None:
        """Mean of the limits, kbit/s."""
        return self.limits / self.samples if self.samples else None

    @property
    def changes_per_minute(self) -> float | None:
        """Changed limits by minute of sample time."""
        span = self.last - self.first
        return self.changes * 60e9 / span if span else None

    def add(self, decision: "Decision | DecisionView") -> int:
        """Count one decision; return the sum of its limits, kbit/s."""
        total = 0
        changed = shielded = False
        for target in decision.targets:
            total += target.limit
            changed |= target.limit != target.was
            shielded |= target.rule != "none"
            self.cuts += target.rule == "cut"
        self.samples += 1
        self.first = self.first or decision.end
        self.last = decision.end
        self.limits += total
        self.changes += changed
        self.shielded += shielded
        self.blind += decision.stress is None
        self.violated += decision.violated
        self.faults += decision.fault is not None
        if self.lowest is None or total < self.lowest:
            self.lowest = total
        if self.highest is None or total > self.highest:
            self.highest = total
        return total


class DecisionView(Struct, frozen=True):
    """As much of a recorded decision as the statistics need."""

    domain: str
    end: Integer
    targets: tuple[TargetDecision, ...]
    stress: float | None = None
    violated: bool = False
    fault: str | None = None
    definition: Integer = 0
    """The revision that it was made under; 0: the configuration of the recording."""


def under_policy(domain: Domain, policy: str) -> Domain:
    """The same domain under another policy; parameters belong to the policy that they were written for."""
    return domain if domain.policy == policy else structs.replace(domain, policy=policy, parameters={}, shadow=())


class PolicyRun:
    """One domain under one configuration, from sample to sample."""

    def __init__(self, domain: Domain) -> None:
        """Begin at the fail-safe limits."""
        self._controller = Controller(domain)
        self._state: State | None = None
        self._totals: dict[int, int] = {}
        self.statistics = PolicyStatistics()

    def define(self, domain: Domain) -> None:
        """Step under another definition from now on."""
        self._controller = Controller(domain)

    def restore(self, state: State) -> None:
        """Go on from a recorded state; what was in force under the recorded policy is not in force under this one."""
        self._state = structs.replace(state, in_force={})

    def step(self, sample: Sample, published: int) -> Decision | None:
        """Step once, and return the decision; a sample that the decision service would refuse is ignored.

        Args:
            sample: the next of the stream.
            published: when the bus stored it, UTC ns.
        """
        try:
            decision = self._controller.answer(self._state, sample, published)
        except RejectedSample:
            return None
        self._state = decision.state
        self._totals[sample.end] = self.statistics.add(decision)
        if len(self._totals) > _MOST_WAITING:
            del self._totals[next(iter(self._totals))]
        return decision

    def compare_limits(self, end: int, total: int) -> None:
        """Compare the limits after the sample that ends at ``end`` with the recorded sum, kbit/s."""
        own = self._totals.pop(end, total)
        self.statistics.above += own > total
        self.statistics.below += own < total
