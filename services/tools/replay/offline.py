"""Replay inside this process: one pass over a recording, as fast as it goes, in constant memory."""

from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from schemas.decode_errors import DECODE_ERRORS
from schemas.definition import Definition
from schemas.domain import Domain
from schemas.messages import Decision, Sample, decode
from schemas.numbers import Integer
from services.bus.subjects import Subjects
from services.control import Controller
from services.tools.common.progress import ProgressCallback
from services.tools.common.recording import RecordingReader
from services.tools.replay.comparison import DecisionView, PolicyRun, PolicyStatistics, under_policy
from services.tools.replay.verifier import RECORDED, RecordedDecision, ReplayTally, ReplayVerifier

AS_RECORDED = "as recorded"


class SampleLine(Struct, tag="sample", tag_field="kind", gc=False):
    """A sample, decoded with its line."""

    time: Integer
    body: Sample


class DecisionLine(Struct, tag="decision", tag_field="kind", gc=False):
    """A decision, decoded only where it differs from the replayed one."""

    subject: str
    time: Integer
    body: Raw


class DefinitionLine(Struct, tag="definition", tag_field="kind", gc=False):
    """A domain's definition, decoded with care: it may be of a build that knows more."""

    time: Integer
    body: Raw


class ActionLine(Struct, tag="action", tag_field="kind", gc=False):
    """An action; a replay makes none."""

    time: Integer


class DeadLetterLine(Struct, tag="dead", tag_field="kind", gc=False):
    """A dead letter."""

    time: Integer


Lines = SampleLine | DefinitionLine | DecisionLine | ActionLine | DeadLetterLine
"""A recording's lines with as much of each as a replay needs."""

_MOST_UNKNOWN = 1000
_UNKNOWN_VERSION = "of a version that this build does not read"
_UNKNOWN_DOMAIN = "the recording's configuration does not have this domain: not replayed"
_LACKING = (
    "definition is not in the recording, or cannot be used: policies were tried under the one before, or the "
    "configuration"
)
_view = msgspec.json.Decoder(DecisionView)
_decision = msgspec.json.Decoder(Decision)


def verify(  # noqa: C901 - a branch for each kind of line
    reader: RecordingReader, progress: ProgressCallback
) -> dict[str, ReplayTally]:
    """Make every recorded decision again and compare it byte for byte.

    Args:
        reader: the recording; its ``problems`` say afterwards what could not be read.
        progress: takes the bytes read so far, after each batch.

    Returns:
        A tally by domain.
    """
    header = reader.header
    answered, policies = "decision" in header.kinds, header.policies
    runs = {
        domain.name: ReplayVerifier(domain, answered=answered, recorded_policy=policies.get(domain.name))
        for domain in header.domains
    }
    subjects = Subjects(header.prefix)
    by_subject = {subjects.decision(name): run for name, run in runs.items()}
    unknown: dict[str, ReplayTally] = {}
    last = 0

    def define(definition: Definition) -> ReplayVerifier:
        """Of a domain that is in no file, the first definition stands for the configuration."""
        name = definition.domain
        run = runs[name] = runs.get(name) or ReplayVerifier(definition.configuration, answered=answered)
        run.define(definition)
        return run

    for batch in reader.read_batches(msgspec.json.Decoder(Lines)):
        for line in batch:
            if type(line) is SampleLine:
                sample = line.body
                run = runs.get(sample.domain)
                if sample.v != 1:
                    reader.add_problem(batch, line, _UNKNOWN_VERSION)
                elif run is not None:
                    run.add_sample(sample, line.time)
                else:
                    name = next(iter(unknown)) if len(unknown) >= _MOST_UNKNOWN else sample.domain
                    unknown.setdefault(name, ReplayTally(notes=[_UNKNOWN_DOMAIN])).samples += 1
            elif type(line) is DefinitionLine:
                definition = _decode_definition(reader, batch, line)
                if definition is not None:
                    by_subject[subjects.decision(definition.domain)] = define(definition)
            elif type(line) is DecisionLine:
                run = by_subject.get(line.subject)
                if run is not None and run.matches_recorded(line.body):
                    continue
                body = bytes(line.body)
                recorded = _decode_recorded(reader, batch, line, body)
                if recorded is not None and (run := runs.get(recorded.domain)) is not None:
                    run.add_decision(recorded, body, line.time)
        last = max(last, batch[-1].time) if batch else last
        progress(reader.offset)
    return {name: run.end(last) for name, run in runs.items()} | unknown


def _decode_definition(reader: RecordingReader, batch: Sequence[object], line: DefinitionLine) -> Definition | None:
    """Decode a definition that this build can use; None where it cannot."""
    try:
        definition = decode(Definition, bytes(line.body))
        Controller(definition.configuration)
    except ValueError as error:
        reader.add_problem(batch, line, str(error))
        return None
    return definition


def _decode_recorded(
    reader: RecordingReader, batch: Sequence[object], line: DecisionLine, body: bytes
) -> RecordedDecision | None:
    """Decode as much of a decision as a verifier needs; None where that is not possible."""
    try:
        recorded = RECORDED.decode(body)
    except DECODE_ERRORS as error:
        reader.add_problem(batch, line, error)
        return None
    if recorded.v != 1:
        reader.add_problem(batch, line, _UNKNOWN_VERSION)
        return None
    return recorded


def _define_under_policies(
    runs: Mapping[str, Mapping[str, PolicyRun]], policies: Collection[str], definition: Definition | None
) -> None:
    """Let a recorded definition hold for every policy that is tried, too."""
    for name in policies if definition is not None else ():
        assert definition is not None
        if (run := runs[name].get(definition.domain)) is not None:
            run.define(under_policy(definition.configuration, name))


def compare_policies(  # noqa: C901 - a branch for each kind of line
    reader: RecordingReader,
    variants: Mapping[str, Sequence[Domain]],
    progress: ProgressCallback,
    policies: Collection[str] = (),
) -> dict[str, dict[str, PolicyStatistics]]:
    """Run every variant over the recorded samples, side by side, in one pass.

    Args:
        reader: the recording.
        variants: the domains of each, by the variant's name.
        progress: takes the bytes read so far, after each batch.
        policies: the variants that are policies' names: recorded definitions hold for them, too.

    Returns:
        Statistics by variant and domain; ``AS_RECORDED`` stands for the decisions on record.
    """
    recorded = {domain.name: PolicyStatistics() for domain in reader.header.domains}
    runs = {name: {domain.name: PolicyRun(domain) for domain in domains} for name, domains in variants.items()}
    by_domain = {
        name: [of[name] for of in runs.values() if name in of]
        for name in {domain.name for domains in variants.values() for domain in domains}
    }
    known = {(name, 0) for name in recorded}
    """Domains and the revisions of their definitions that the recording has, or whose absence was noted."""
    for batch in reader.read_batches(msgspec.json.Decoder(Lines)):
        for line in batch:
            if type(line) is SampleLine:
                if line.body.v != 1:
                    reader.add_problem(batch, line, _UNKNOWN_VERSION)
                    continue
                for run in by_domain.get(line.body.domain, ()):
                    run.step(line.body, line.time)
            elif type(line) is DefinitionLine:
                definition = _decode_definition(reader, batch, line)
                _define_under_policies(runs, policies, definition)
                known |= {(definition.domain, definition.revision)} if definition is not None else set()
            elif type(line) is DecisionLine:
                try:
                    view = _view.decode(line.body)
                    if view.domain in recorded and (view.domain, view.definition) not in known:
                        known.add((view.domain, view.definition))
                        reader.add_problem(batch, line, f"revision {view.definition} of {view.domain}'s {_LACKING}")
                    total = recorded[view.domain].add(view) if view.domain in recorded else 0
                    for run in by_domain.get(view.domain, ()):
                        if run.statistics.samples:
                            run.compare_limits(view.end, total)
                        else:
                            run.restore(_decision.decode(line.body).state)
                except DECODE_ERRORS as error:
                    reader.add_problem(batch, line, error)
        progress(reader.offset)
    statistics = {name: {domain: run.statistics for domain, run in of.items()} for name, of in runs.items()}
    return {AS_RECORDED: recorded} | statistics
