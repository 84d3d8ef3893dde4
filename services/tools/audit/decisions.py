"""Second check of an audit: does every decision follow from its sample, within its bounds and in its place?

The decision is made again from the recorded state before it; what differs by a byte is a break.
"""

import sys

from schemas.domain import Domain
from schemas.messages import Decision, Sample
from services.bus.envelope import SAMPLE_SEQ
from services.tools.audit.streams import Break, bounded
from services.tools.common.recording import Line
from services.tools.replay.verifier import RECORDED, Again


class Decisions:
    """One domain's decisions."""

    def __init__(self, name: str, domain: Domain | None, since: int, *, answered: bool) -> None:
        """Begin.

        Args:
            name: of the domain.
            domain: its configuration; None leaves out what only it can tell.
            since: decisions from before it (UTC ns) are there for their state.
            answered: whether decisions are kept at all where this comes from.
        """
        self.name = name
        self._domain = domain
        self._since = since
        self._again = Again(domain, answered=answered, listed=sys.maxsize) if domain is not None else None
        self._bounds = {target.key: target for target in domain.targets} if domain is not None else {}
        self._last: Decision | None = None
        self._sampled = False
        self._times = (0, 0)
        """When the first and the last decision of the stretch were stored, UTC ns."""
        self._seqs: dict[str, int] = {}
        self.breaks: list[Break] = []
        self.remade = 0
        """Decisions that were made again."""

    def sample(self, sample: Sample, line: Line) -> None:
        """The next sample."""
        self._sampled = True
        self._seqs[sample.id] = line.seq
        bounded(self._seqs)
        if self._again is not None:
            self._again.sample(sample, line.time)

    def decision(self, decision: Decision, line: Line) -> None:
        """The next decision."""
        self._check_sequence(decision, line)
        self._check_sample(decision, line)
        self._check_bounds(decision, line)
        self._last = decision
        if line.time >= self._since:
            self._times = (self._times[0] or line.time, line.time)
        if self._again is not None:
            self._again.decision(RECORDED.decode(line.payload), line.payload, line.time)

    def _broken(self, rule: str, what: str, line: Line) -> None:
        self.breaks.append(Break(rule, self.name, what, line.time))

    def _check_sequence(self, decision: Decision, line: Line) -> None:
        last = self._last
        if last is None:
            return
        place = f"number {decision.seq} of epoch {decision.epoch} follows number {last.seq} of epoch {last.epoch}"
        if decision.epoch == last.epoch:
            if decision.seq != last.seq + 1:
                self._broken("sequence", f"decision {decision.id}: {place}", line)
        elif decision.epoch < last.epoch or decision.seq != 1:
            self._broken(
                "sequence", f"decision {decision.id}: {place}; an epoch begins at 1, above the one before", line
            )

    def _check_sample(self, decision: Decision, line: Line) -> None:
        if decision.sample != f"{decision.domain}:{decision.end}":
            self._broken(
                "cause", f"decision {decision.id} names the sample {decision.sample}, which is not its own", line
            )
        named = line.headers.get(SAMPLE_SEQ, "")
        seq = self._seqs.get(decision.sample)
        if seq is not None and named != str(seq):
            told = f"decision {decision.id} says that its sample has sequence {named or '-'}; it has {seq}"
            self._broken("cause", told, line)

    def _check_bounds(self, decision: Decision, line: Line) -> None:
        named = {one.target for one in decision.targets}
        if self._bounds and named != set(self._bounds):
            self._broken("bounds", f"decision {decision.id} is about {sorted(named)}, not {sorted(self._bounds)}", line)
        for one in decision.targets:
            target = self._bounds.get(one.target)
            if target is not None and not target.min <= one.limit <= target.max:
                told = (
                    f"decision {decision.id}: {one.target} {one.limit} kbit/s is outside {target.min} to {target.max}"
                )
                self._broken("bounds", told, line)
            memory = decision.state.shield.get(one.target)
            if memory is None or memory.limit != one.limit:
                told = f"decision {decision.id}: {one.target} has {one.limit} kbit/s, and the state does not say so"
                self._broken("decision", told, line)

    def end(self, now: int) -> list[Break]:
        """No more messages; ``now`` (UTC ns) is when the last one of all was stored."""
        if self._again is not None:
            tally = self._again.end(now)
            self.remade = tally.identical + tally.different
            for one in tally.differences:
                told = f"the decision on {one.sample} does not follow from it: {one.what}"
                self.breaks.append(Break("decision", self.name, told, one.time))
            for one in (*tally.silent, *tally.holes):
                self.breaks.append(Break("cause", self.name, f"sample {one.sample}: {one.what}", one.time))
        self._check_samples()
        return self.breaks

    def _check_samples(self) -> None:
        """Decisions without any sample cannot all answer samples from before the stretch, where they go on for long."""
        first, last = self._times
        if not self._sampled and self._domain is not None and last - first > self._domain.dead_man:
            told = "there are decisions, and not one sample that they could rest on"
            self.breaks.append(Break("cause", self.name, told, last))
