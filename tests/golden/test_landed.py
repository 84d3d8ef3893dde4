"""Upgrade and downgrade with decisions under way: what landed builds wrote, and what they can read.

``landed/`` has, by the commit of each build: stretches of recordings that it made on real packets, the JSON Schemas of
its messages, and the records that its actuator kept on objects, with their schema.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from msgspec.structs import replace

from schemas.messages import KINDS, Action, Decision, Sample, decode, encode
from schemas.units import Rate
from services.actuator.ownership import KEY, build_patch, find_record, pause_reason
from services.actuator.plan import build_plan
from services.control import Controller
from services.kube.objects import BANDWIDTH
from services.tools.audit.auditor import Auditor
from services.tools.common.recording import RecordingReader
from tests.support.attack_tally import Attacks
from tests.support.kube.objects import ME, NOW, TARGET, after, deployment, order, pod, record

LANDED = Path(__file__).parent / "landed"
RECORDINGS = sorted(LANDED.glob("*.jsonl"))
SCHEMAS = sorted(LANDED.glob("*.schemas.json"))
RECORDS = json.loads((LANDED / "4dc0bfb.records.json").read_text(encoding="utf-8"))
"""The form of the record is the first build's to this day."""
ROW = "other builds' messages and records"
S = 10**9


def read_all(file: Path) -> tuple[RecordingReader, list[Any]]:
    """A recording's messages in this build's types."""
    reader = RecordingReader(file)
    return reader, [(line, decode(KINDS[line.kind], line.payload)) for line in reader.read_messages()]  # type: ignore[type-var]


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda path: path.stem)
def test_this_build_goes_on_from_an_older_ones_decisions(file: Path, attacks: Attacks) -> None:
    """Every message is read, the audit runs, and the next sample is answered from the older build's state."""
    reader, messages = read_all(file)
    assert reader.problems == []
    assert {type(message) for _, message in messages} >= {Sample, Decision, Action}
    (domain,) = reader.header.domains
    auditor = Auditor(reader.header.domains, reader.header.since, whole=False)
    for line, _ in messages:
        auditor.check(line)
    auditor.finish()
    decisions = [message for _, message in messages if isinstance(message, Decision)]
    samples = [message for _, message in messages if isinstance(message, Sample)]
    bounds = {target.key: (int(target.min), int(target.max)) for target in domain.targets}
    outside = 0
    for before in decisions:
        later = replace(samples[-1], start=before.end, end=before.end + samples[-1].period)
        answer = Controller(domain).answer(before.state, later, later.end)
        assert (answer.state.epoch, answer.state.seq) == (before.state.epoch, before.state.seq + 1)
        for part in answer.targets:
            low, high = bounds[part.target]
            outside += not low <= part.limit <= high
    attacks.add(ROW, f"{len(messages)} older messages, {len(decisions)} states", outside)


def newest() -> Iterator[tuple[str, bytes]]:
    """Messages as this build writes them: of the golden recordings, and with every optional field."""
    for file in sorted(LANDED.parent.glob("*.jsonl.zst")):
        for line in RecordingReader(file).read_messages():
            yield line.kind, encode(decode(KINDS[line.kind], line.payload))  # type: ignore[type-var]
    for kind in KINDS:
        yield kind, (LANDED.parent / "messages" / f"{kind}.v1.json").read_bytes()


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda path: path.stem)
def test_an_older_build_reads_what_this_one_writes(file: Path, attacks: Attacks) -> None:
    """Each message fits the schema of each landed build, which ignores fields that it does not know."""
    schemas = json.loads(file.read_text(encoding="utf-8"))
    read = {kind: jsonschema.Draft202012Validator(schema) for kind, schema in schemas.items()}
    tried, wrong = 0, []
    for number, (kind, body) in enumerate(newest()):
        if kind == "definition" and kind not in read:
            continue  # Builds from before that subject never ask for it.
        if number % 5 == 0 or kind in ("action", "dead"):
            tree = json.loads(body) | {"field_of_a_later_build": {"x": [1]}}
            wrong += [f"{kind}: {error.message[:200]}" for error in read[kind].iter_errors(tree)]
            tried += 1
    attacks.add(ROW, f"{tried} newer messages", len(wrong))
    assert tried > 50


def test_records_of_every_build_are_gone_on_from() -> None:
    """The value from before Sluice is kept, decisions go on, and unreported writes are known."""
    for tree in RECORDS["records"]:
        main = deployment(tree["value"], json.dumps(tree))
        known = find_record(main)
        assert known is not None
        assert (known.found, known.limit, known.term) == (tree.get("found"), tree["limit"], tree.get("term", 0))
        assert len(known.writes) == 1 + len(tree.get("owed", ()))
        assert pause_reason(main, managed=True) is None
        unreported = [one.action for one in known.writes]
        (write,) = build_plan(TARGET, order(8_000), main, [], ME, unreported, NOW).writes
        assert (write.record.value, write.record.found) == ("8M", tree.get("found"))
        assert len(write.record.owed) == len(known.writes)


def test_an_older_build_reads_this_ones_records() -> None:
    """They fit the schema of the first build's record, with and without what was owed."""
    reader = jsonschema.Draft202012Validator(RECORDS["schema"])
    main = deployment("60M", json.dumps(RECORDS["records"][0]))
    for pods in ([], [pod(1, "60M"), pod(2, None)]):
        for write in build_plan(TARGET, order(8_000), main, pods, ME, (), NOW).writes:
            tree = json.loads(msgspec.json.encode(write.record))
            assert list(reader.iter_errors(tree | {"field_of_a_later_build": 1})) == []


VALUES: tuple[Any, ...] = (None, True, -1, 2**70, 0.5, "", "x" * 1000, [], {}, [[1]], {"a": {"b": []}}, "2026-11-27")


def test_no_record_of_a_later_build_freezes_a_target(attacks: Attacks) -> None:
    """Whatever a later version puts in place of each field: the fail-safe limit can be written, and then a decision."""
    tried = frozen = 0
    for version in (2, 3, 10**6):
        for tree in RECORDS["records"]:
            for key in [*tree, "field_of_a_later_build"]:
                for value in VALUES:
                    later = copy.deepcopy(tree) | {key: value, "v": version}
                    main = deployment(tree["value"], json.dumps(later))
                    tried += 1
                    frozen += pause_reason(main, managed=False) is not None
                    for limit, cause in ((10_000, "dead-man"), (8_000, "decision")):
                        writes = build_plan(TARGET, order(limit, cause=cause), main, [], ME, (), NOW).writes
                        frozen += len(writes) != 1 and main.bandwidth != str(Rate(limit))
                        for write in writes:
                            main = after(main, write.operations)
                            assert (main.bandwidth, find_record(main)) == (str(Rate(limit)), write.record)
    attacks.add(ROW, f"{tried} later records", frozen)


def test_a_record_can_be_removed_by_any_build() -> None:
    """Restoring works on objects with either record: it tests what it saw."""
    for text in (
        json.dumps(RECORDS["records"][0]),
        json.dumps(RECORDS["records"][0] | {"v": 2}),
        record("60M", 60_000),
    ):
        main = deployment("60M", text)
        restored = after(main, build_patch(main, {BANDWIDTH: "44M", KEY: None}))
        assert (restored.bandwidth, KEY in restored.annotations) == ("44M", False)
