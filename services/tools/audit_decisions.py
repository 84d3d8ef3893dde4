"""Second check of an audit: does every decision follow from its sample, within its bounds and in its place?

The decision is made again from the recorded state before it; what differs by a byte is a break.
"""

from schemas.domain import Domain
from schemas.messages import Decision, Sample
from services.bus.envelope import SAMPLE_SEQ
from services.tools.audit_streams import Break, bounded
from services.tools.recording import Line
from services.tools.rerun import RECORDED, Again


class Decisions:
    """One domain's decisions."""

    def __init__(self, name: str, domain: Domain | None) -> None:
        """Begin.

        Args:
            name: of the domain.
            domain: its configuration; None leaves out what only it can tell.
        """
        self.name = name
        self._again = Again(domain) if domain is not None else None
        self._bounds = {target.key: target for target in domain.targets} if domain is not None else {}
        self._last: Decision | None = None
        self._seqs: dict[str, int] = {}
        self.breaks: list[Break] = []
        self.remade = 0
        """Decisions that were made again."""

    def sample(self, sample: Sample, line: Line) -> None:
        """The next sample."""
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

    def end(self) -> list[Break]:
        """No more messages."""
        if self._again is not None:
            tally = self._again.end()
            self.remade = tally.identical + tally.different
            for difference in tally.differences:
                told = f"the decision on {difference.sample} does not follow from it: {difference.what}"
                self.breaks.append(Break("decision", self.name, told))
            self.breaks += [Break("cause", self.name, f"{sample} was never decided on") for sample in tally.silent]
            # That the stretch begins in the middle is no fault.
            self.breaks += [Break("cause", self.name, note) for note in tally.notes if "in the middle" not in note]
        return self.breaks
