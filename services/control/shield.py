"""The last word on every limit: deterministic, integers only, no learned state.

A proposal passes through these rules; the last one that changes it gives the decision's rule:

    clamp     within [min, max]
    no-data   nothing is measured: never up; a limit above the fail-safe limit falls to it within ``decay``
    cut       an SLO is broken: at most ``cut`` of the limit in force, once per signal window
    hold      the window still sees traffic from before the last cut: not up, unless that cut is taken back;
              or what was decided last is not in force yet: no further up than that
    rise      up by at most ``rise`` a second
    deadband  a rise too small to be worth a patch waits until it is large enough

A cut is taken back early where no shared queue was seen when it was made, nor since: best effort did not cause
what broke the SLO.  It is taken back once it has shown in full, no faster than any limit rises, and no further than to
the limit before it.  If a queue shows then, the next violation cuts at once.

Only rises are ever delayed or shortened.  A proposal to go down passes every rule untouched, except for
the clamp to ``min``.  Rises start from what is in force (``start_from``).  ``python -m tests.proof`` proves these
statements about the functions below.
"""

from msgspec import Struct

from schemas.domain import Domain, Target
from schemas.messages import Rule, ShieldMemory

_SECOND = 10**9


class Limits(Struct, frozen=True, gc=False):
    """One target's bounds as the integers that the rules compute with."""

    min: int
    """kbit/s, as are max and fail_safe."""
    max: int
    fail_safe: int
    rise: int
    """Largest rise in a second, kbit/s; at least 1."""
    deadband: int
    """Smallest rise worth a patch, kbit/s; from 1 to ``rise``."""
    cut: int
    """Thousandths of the limit that a cut leaves."""
    decay: int
    """Time in which a limit falls from max to fail_safe without data, ns; at least 1."""

    @classmethod
    def from_target(cls, target: Target, domain: Domain) -> "Limits":
        """Turn shares of [min, max] into kbit/s; no target gets more than the domain's capacity."""
        settings = domain.shield
        most = int(target.max if domain.capacity is None else min(target.max, domain.capacity))
        span = most - target.min
        rise = max(int(span * settings.rise_per_second), 1)
        smallest = span * settings.deadband
        if domain.capacity is None:
            # The span may be far wider than the link; the fail-safe limits together are of the link's size.
            smallest = min(smallest, 10 * sum(one.fail_safe for one in domain.targets) * settings.deadband)
        return cls(
            min=int(target.min),
            max=most,
            fail_safe=int(target.fail_safe),
            rise=rise,
            deadband=min(max(int(smallest), 1), rise),
            cut=int(settings.cut * 1000),
            decay=int(settings.decay),
        )


class ShieldInput(Struct, frozen=True, gc=False):
    """What the rules know of the sample.  Times are ns."""

    end: int
    """End of its window."""
    start: int
    """Start of its window."""
    settle: int
    """How long a cut takes to show in full."""
    elapsed: int
    """Time since the end of the sample before."""
    violated: bool
    no_data: bool
    queued: bool
    """Whether every critical workload waits in a queue now, or that is not known."""


def start_from(limits: Limits, memory: ShieldMemory, in_force: int, unsettled: bool) -> tuple[ShieldMemory, int]:
    """Where a step starts if what is in force may differ from what was decided, and how high it may go.

    Args:
        limits: the target's bounds.
        memory: of the last decision.
        in_force: the lowest limit that may be in force, kbit/s.
        unsettled: whether another one may be in force, too.

    Returns:
        The memory to step from, with the lower of both limits: no rise counts on a limit that is not in force, and no
        cut on its way is taken back.  And the highest limit that may be decided, kbit/s: while what was decided is not
        in force, nothing is raised further.
    """
    decided = memory.limit
    actual = min(max(in_force, limits.min), limits.max)
    if actual == decided and not unsettled:
        return memory, limits.max
    return ShieldMemory(min(actual, decided), memory.since, memory.cut_until, 0, memory.back), max(actual, decided)


def open_way_back(memory: ShieldMemory, inputs: ShieldInput) -> tuple[bool, int]:
    """Whether the last cut still holds, and up to which limit (kbit/s) it may be taken back; 0 if it may not."""
    settling, back = inputs.start < memory.cut_until, 0
    if settling and not inputs.queued and not inputs.no_data:
        back = memory.back
    if memory.back > 0 and inputs.queued and memory.since >= memory.cut_until:
        # What was given back has built up a queue: it may be cut again at once.
        settling = False
    return settling, back


def shield(  # noqa: C901 - a branch for each rule
    limits: Limits, memory: ShieldMemory, proposal: int, inputs: ShieldInput, highest: int
) -> tuple[int, Rule, ShieldMemory]:
    """The limit that is allowed, kbit/s, the rule that decided, and what to remember.

    The caller guarantees that the limit in force lies within [min, max], and that time goes forward:
    ``memory.since <= inputs.end``, ``inputs.start < inputs.end``, ``elapsed`` not negative.  ``memory`` and ``highest``
    come from ``start_from``.
    """
    now, wanted = memory.limit, proposal
    rule: Rule = "none"
    settling, back = open_way_back(memory, inputs)
    cut_until, waiting = memory.cut_until, 0
    if proposal < limits.min or proposal > limits.max:
        wanted, rule = min(max(proposal, limits.min), limits.max), "clamp"
    if inputs.no_data:
        # Rounded up, so that samples close to each other never stop the fall.
        fall = -((limits.fail_safe - limits.max) * inputs.elapsed // limits.decay)
        wanted, rule = min(wanted, now, max(now - fall, limits.fail_safe)), "no-data"
    if inputs.violated and not settling:
        cut_until = inputs.end + inputs.settle
        back = 0 if inputs.queued else now
        cut = max(now * limits.cut // 1000, limits.min)
        if wanted > cut:
            wanted, rule = cut, "cut"
    if settling:
        most = max(back, now) if inputs.end >= memory.cut_until else now
        if wanted > most:
            wanted, rule = most, "hold"
    if wanted > highest:
        wanted, rule = highest, "hold"
    if wanted > now:
        # The allowance grows with the time since the last change, so that a rise kept back by the deadband is
        # not lost, and stops at one second's worth, so that none is saved up for a leap.
        risen = now + limits.rise * min(inputs.end - memory.since, _SECOND) // _SECOND
        if wanted > risen:
            wanted, rule = risen, "rise"
        # The last stretch to the maximum, or to what is decided already, may be smaller than the deadband.
        if wanted - now < limits.deadband and wanted < highest:
            wanted, rule, waiting = now, "deadband", wanted - now
    since = memory.since if wanted == now else inputs.end
    return wanted, rule, ShieldMemory(wanted, since, cut_until, waiting, back)
