"""The explanation of a decision, with every figure that led to it."""

from pathlib import Path

import pytest
from msgspec import structs

from schemas.messages import Action, Decision, Sample, encode
from services.tools.common.formatting import decode_message, format_ms, format_rate
from services.tools.common.recording import RecordedMessage, build_message
from services.tools.explain.command import DecisionTrace, describe_trace
from tests.support.bus_stream import config, record, stream
from tests.support.commands import sluice

LINES = list(stream(config(), 120, actions=True))
DOMAIN = config().domains[0]


def case(wanted: str, lines: list[RecordedMessage] = LINES) -> DecisionTrace:
    """The case of a decision in some lines."""
    found = DecisionTrace(wanted)
    for line in lines:
        found.add(line)
    return found


def explain_text(wanted: str, lines: list[RecordedMessage] = LINES) -> str:
    """The explanation as text."""
    return "\n".join(describe_trace(case(wanted, lines), DOMAIN))


def find_violation() -> Decision:
    """A decision on a broken SLO in the middle of the stretch."""
    decisions = [one for line in LINES[100:] if isinstance(one := decode_message(line), Decision)]
    return next(one for one in decisions if one.violated and one.targets[0].rule == "cut")


def test_it_shows_measurement_proposal_rule_patch_and_times() -> None:
    """Measurement and SLO, proposal, rule, patch, and the duration of each."""
    decision = find_violation()
    sample = next(
        one for line in LINES if isinstance(one := decode_message(line), Sample) and one.id == decision.sample
    )
    text = explain_text(decision.id)
    assert decision.reason in text
    assert f"jitter {format_ms(sample.critical[0].jitter)} of 2 ms" in text
    assert "broken" in text
    target = decision.targets[0]
    assert f"goes from {format_rate(target.was)} to {format_rate(target.limit)}" in text
    assert "cut because an SLO is broken" in text
    assert f"telemetry-upload {format_rate(target.limit)} applied on 3 pods" in text
    assert "sense 5 ms, decide 2 ms, act 19 ms" in text
    assert "the same, byte for byte" in text


def test_it_is_found_by_its_sample_or_its_domain() -> None:
    """A decision is found by its sample's id, and the last change of a domain's limits by the domain's name."""
    decision = find_violation()
    found = case(decision.sample).decision
    assert found is not None
    assert found[0] == decision
    changes = [
        one
        for line in LINES
        if isinstance(one := decode_message(line), Decision)
        and any(target.limit != target.was for target in one.targets)
    ]
    last = case("cell-0").decision
    assert last is not None
    assert last[0] == changes[-1]


def test_missing_messages_are_reported() -> None:
    """It reports a missing sample, earlier decision, action or configuration instead of guessing."""
    decision = find_violation()
    at = next(i for i, line in enumerate(LINES) if decode_message(line) == decision)
    assert "is not here any more" in explain_text(decision.id, LINES[at:])
    assert "not possible without the decision before it" in explain_text(decision.id, LINES[at - 1 : at + 1])
    assert "no action on record" in explain_text(decision.id, LINES[: at + 1])
    assert "--config" in "\n".join(describe_trace(case(decision.id), None))


def test_a_tampered_decision_is_not_confirmed() -> None:
    """A decision that does not follow from its sample is not confirmed."""
    decision = find_violation()
    at = next(i for i, line in enumerate(LINES) if decode_message(line) == decision)
    old = LINES[at]
    target = structs.replace(decision.targets[0], limit=decision.targets[0].limit - 1)
    changed = structs.replace(decision, targets=(target, *decision.targets[1:]))
    line = build_message("decision", old.subject, old.seq, old.time, old.headers, encode(changed))
    assert "another one; see sluice audit" in explain_text(decision.id, [*LINES[:at], line, *LINES[at + 1 :]])


def test_a_fault_is_shown() -> None:
    """A policy that was skipped is named with the reason."""
    decision = find_violation()
    at = next(i for i, line in enumerate(LINES) if decode_message(line) == decision)
    old = LINES[at]
    changed = structs.replace(decision, fault="proportional/1 took 30 ms of 20")
    line = build_message("decision", old.subject, old.seq, old.time, old.headers, encode(changed))
    assert "the policy's proposal was replaced: proportional/1 took 30 ms of 20" in explain_text(
        decision.id, [*LINES[:at], line]
    )


@pytest.mark.parametrize("wanted", ["cell-0:1:proportional/1", "no-such-domain"])
def test_an_unknown_decision(tmp_path: Path, wanted: str) -> None:
    """An unknown decision is an error that names it."""
    done = sluice("explain", wanted, record(tmp_path / "x", config(), iter(LINES)))
    assert done.returncode == 1
    assert f"there is no decision '{wanted}'" in done.stderr


def test_the_command_reads_a_recording(tmp_path: Path) -> None:
    """From a recording alone, with its own configuration."""
    decision = find_violation()
    done = sluice("explain", decision.id, record(tmp_path / "x", config(), iter(LINES)))
    assert done.returncode == 0
    assert done.stdout == explain_text(decision.id) + "\n"


def test_a_limit_set_without_a_decision_is_shown() -> None:
    """A fail-safe limit after the last decision is shown."""
    old = next(line for line in reversed(LINES) if line.kind == "action")
    action = decode_message(old)
    assert isinstance(action, Action)
    silent = structs.replace(action, decision=None, cause="dead-man", limit=5_000, reason="no decision for 5 s")
    line = build_message("action", old.subject, old.seq + 1, old.time + 1, old.headers, encode(silent))
    assert "Set since then" not in explain_text("cell-0")
    assert "(dead-man): no decision for 5 s" in explain_text("cell-0", [*LINES, line])


@pytest.mark.parametrize(
    "command", [("replay",), ("replay", "--every-policy"), ("audit",), ("tap",), ("explain", "cell-0")]
)
def test_a_cut_recording_fails_every_reader(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A reader of a truncated file names the line, processes the rest, and ends with exit code 1."""
    path = record(tmp_path / "x", config(), iter(LINES))
    packed = path.read_bytes()
    path.write_bytes(packed + packed[: len(packed) // 2])
    done = sluice(*command, path)
    assert done.returncode == 1
    assert done.stdout
    assert f"{path}: line " in done.stderr
    assert "the file ends within it" in done.stderr
