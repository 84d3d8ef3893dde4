"""Replay inside this process: one pass over a recording, as fast as it goes, in constant memory."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from schemas.domain import Domain
from schemas.messages import Decision, Sample
from services.bus.subjects import Subjects
from services.tools.common.recording import Header, Reader
from services.tools.replay.comparison import Course, Figures, Told
from services.tools.replay.verifier import RECORDED, Again, Tally

AS_RECORDED = "as recorded"


class _Sample(Struct, tag="sample", tag_field="kind", gc=False):
    time: int
    body: Sample


class _Decision(Struct, tag="decision", tag_field="kind", gc=False):
    subject: str
    time: int
    body: Raw


class _Action(Struct, tag="action", tag_field="kind", gc=False):
    time: int


class _Dead(Struct, tag="dead", tag_field="kind", gc=False):
    time: int


Lines = _Sample | _Decision | _Action | _Dead


_told = msgspec.json.Decoder(Told)
_decision = msgspec.json.Decoder(Decision)

Progress = Callable[[int], None]
"""Told how many bytes of the file were taken in."""


def again(reader: Reader, progress: Progress) -> dict[str, Tally]:
    """Make every recorded decision again and compare, by domain.

    What could not be read stands in ``reader.problems`` afterwards.
    """
    courses = _courses(reader.header)
    subjects = Subjects(reader.header.prefix)
    by_subject = {subjects.decision(name): course for name, course in courses.items()}
    strangers: dict[str, Tally] = {}
    last = 0
    for batch in reader.read(msgspec.json.Decoder(Lines)):
        for line in batch:
            if type(line) is _Sample:
                sample = line.body
                course = courses.get(sample.domain)
                if course is not None:
                    course.sample(sample, line.time)
                else:
                    _stranger(strangers, sample.domain)
            elif type(line) is _Decision:
                course = by_subject.get(line.subject)
                if course is not None and course.expected(line.body):
                    continue
                body = bytes(line.body)
                try:
                    recorded = RECORDED.decode(body)
                except msgspec.DecodeError as error:
                    reader.refuse(batch, line, error)
                    continue
                course = courses.get(recorded.domain)
                if course is not None:
                    course.decision(recorded, body, line.time)
        last = max(last, batch[-1].time) if batch else last
        progress(reader.offset)
    return {name: course.end(last) for name, course in courses.items()} | strangers


def _courses(header: Header) -> dict[str, Again]:
    """Every recorded domain at its beginning; another version of its policy is noted."""
    answered = "decision" in header.kinds
    courses = {domain.name: Again(domain, answered=answered) for domain in header.domains}
    for name, course in courses.items():
        then = header.policies.get(name, course.policy)
        if then != course.policy:
            course.tally.note(
                f"recorded under {then}, and this build has {course.policy}: other decisions are to be expected"
            )
    return courses


def _stranger(strangers: dict[str, Tally], domain: str) -> None:
    tally = strangers.setdefault(domain, Tally())
    if not tally.samples:
        tally.note("the recording's configuration does not have this domain: not replayed")
    tally.samples += 1


def what_if(
    reader: Reader, variants: Mapping[str, Sequence[Domain]], progress: Progress
) -> dict[str, dict[str, Figures]]:
    """Run every variant over the recorded samples, side by side, in one pass.

    Args:
        reader: the recording.
        variants: the domains of each, by the variant's name.
        progress: told after each batch.

    Returns:
        Figures by variant and domain; ``AS_RECORDED`` stands for the decisions on record.
    """
    recorded = {domain.name: Figures() for domain in reader.header.domains}
    courses = {name: {domain.name: Course(domain) for domain in domains} for name, domains in variants.items()}
    by_domain = {
        name: [of[name] for of in courses.values() if name in of]
        for name in {domain.name for domains in variants.values() for domain in domains}
    }
    for batch in reader.read(msgspec.json.Decoder(Lines)):
        for line in batch:
            if type(line) is _Sample:
                for course in by_domain.get(line.body.domain, ()):
                    course.sample(line.body, line.time)
            elif type(line) is _Decision:
                try:
                    _compare(line.body, recorded, by_domain)
                except msgspec.DecodeError as error:
                    reader.refuse(batch, line, error)
        progress(reader.offset)
    figures = {name: {domain: course.figures for domain, course in of.items()} for name, of in courses.items()}
    return {AS_RECORDED: recorded} | figures


def _compare(body: Raw, recorded: Mapping[str, Figures], courses: Mapping[str, Sequence[Course]]) -> None:
    """Weigh a recorded decision against what the variants of its domain decided."""
    told = _told.decode(body)
    total = recorded[told.domain].take(told) if told.domain in recorded else 0
    for course in courses.get(told.domain, ()):
        if course.begun:
            course.compare(told.end, total)
        else:
            course.begin(_decision.decode(body).state)
