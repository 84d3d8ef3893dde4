"""Second check of an audit: does every decision follow from its sample, within its bounds and in sequence?

The decision is made again from the recorded state before it; a difference of one byte is a breach.
"""

import sys

from schemas.definition import Definition
from schemas.domain import Domain, Target
from schemas.messages import Decision, Sample
from services.bus.envelope import SAMPLE_SEQ
from services.tools.audit.streams import Breach, forget_oldest
from services.tools.common.recording import RecordedMessage
from services.tools.replay.verifier import RECORDED, ReplayVerifier


class DomainAudit:
    """Checks one domain's decisions."""

    def __init__(self, name: str, domain: Domain | None, since: int, *, answered: bool) -> None:
        """Begin.

        Args:
            name: of the domain.
            domain: its configuration; None leaves out what only it can tell.
            since: decisions from before it (UTC ns) are there for their state.
            answered: whether decisions are kept there at all.
        """
        self.name = name
        self._domain = domain
        self._since = since
        self._verifier = ReplayVerifier(domain, answered=answered, listed=sys.maxsize) if domain is not None else None
        self._answered = answered
        self._defined: dict[int, dict[str, Target]] = {}
        """By the revision of a definition, its targets."""
        if domain is not None:
            self._defined[0] = {target.key: target for target in domain.targets}
        self._last: Decision | None = None
        self._sampled = False
        self._times = (0, 0)
        """When the first and the last decision of the range were stored, UTC ns."""
        self._seqs: dict[str, int] = {}
        self.breaches: list[Breach] = []
        self.remade = 0
        """Decisions that were made again."""

    def define(self, definition: Definition) -> None:
        """Take the next definition of the domain."""
        domain = self._domain = definition.configuration
        if self._verifier is None:
            self._verifier = ReplayVerifier(domain, answered=self._answered, listed=sys.maxsize)
        self._verifier.define(definition)
        self._defined[definition.revision] = {target.key: target for target in domain.targets}

    def check_sample(self, sample: Sample, recorded: RecordedMessage) -> None:
        """Check the next sample."""
        self._sampled = True
        self._seqs[sample.id] = recorded.seq
        forget_oldest(self._seqs)
        if self._verifier is not None:
            self._verifier.add_sample(sample, recorded.time)

    def check_decision(self, decision: Decision, recorded: RecordedMessage) -> None:
        """Check the next decision."""
        if (last := self._last) is not None:
            same = decision.epoch == last.epoch
            if decision.epoch < last.epoch or decision.seq != (last.seq + 1 if same else 1):
                place = f"number {decision.seq} of epoch {decision.epoch}"
                text = f"decision {decision.id}: {place} follows number {last.seq} of epoch {last.epoch}"
                rule = "" if same else "; an epoch begins at 1, above the one before"
                self._add_breach("sequence", text + rule, recorded)
        if decision.sample != f"{decision.domain}:{decision.end}":
            text = f"decision {decision.id} names the sample {decision.sample}, which has another domain or end"
            self._add_breach("cause", text, recorded)
        named = recorded.headers.get(SAMPLE_SEQ, "")
        seq = self._seqs.get(decision.sample)
        if seq is not None and named != str(seq):
            text = f"decision {decision.id} names sequence {named or '-'} for its sample, which has {seq}"
            self._add_breach("cause", text, recorded)
        self._check_bounds(decision, recorded)
        self._last = decision
        if recorded.time >= self._since:
            self._times = (self._times[0] or recorded.time, recorded.time)
        if self._verifier is not None:
            self._verifier.add_decision(RECORDED.decode(recorded.payload), recorded.payload, recorded.time)

    def _add_breach(self, rule: str, what: str, recorded: RecordedMessage) -> None:
        self.breaches.append(Breach(rule, self.name, what, recorded.time))

    def _check_bounds(self, decision: Decision, recorded: RecordedMessage) -> None:
        named = {one.target for one in decision.targets}
        bounds = self._defined.get(decision.definition, {})
        if bounds and named != set(bounds):
            text = f"decision {decision.id} is about {sorted(named)}, not {sorted(bounds)}"
            self._add_breach("bounds", text, recorded)
        for one in decision.targets:
            target = bounds.get(one.target)
            # Below a minimum that was raised, a limit rises to it step by step.
            if target is not None and not min(target.min, one.was) <= one.limit <= target.max:
                text = (
                    f"decision {decision.id}: {one.target} {one.limit} kbit/s is outside {target.min} to {target.max}"
                )
                self._add_breach("bounds", text, recorded)
            memory = decision.state.shield.get(one.target)
            if memory is None or memory.limit != one.limit:
                text = f"decision {decision.id}: {one.target} has {one.limit} kbit/s, and the state does not say so"
                self._add_breach("decision", text, recorded)

    def finish(self, now: int) -> list[Breach]:
        """Finish; ``now`` (UTC ns) is when the last message of all was stored.  Return the breaches."""
        if self._verifier is not None:
            tally = self._verifier.end(now)
            self.remade = tally.identical + tally.different
            for one in tally.differences:
                text = f"the decision on {one.sample} does not follow from it: {one.what}"
                self.breaches.append(Breach("decision", self.name, text, one.time))
            for one in (*tally.silent, *tally.holes):
                self.breaches.append(Breach("cause", self.name, f"sample {one.sample}: {one.what}", one.time))
        # Over a long range, not all decisions can answer samples from before it.
        first, last = self._times
        if not self._sampled and self._domain is not None and last - first > self._domain.dead_man:
            text = "there are decisions, and not one sample that they could answer"
            self.breaches.append(Breach("cause", self.name, text, last))
        return self.breaches
