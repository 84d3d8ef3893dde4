"""The audit: a sound recording passes, and each fault is found by its own rule."""

from collections.abc import Callable, Iterable

import msgspec
import pytest
from msgspec import structs

from schemas.config import Config
from schemas.messages import Action, DeadLetter, Decision, encode
from schemas.units import Rate
from services.tools.audit.actions import TargetAudit
from services.tools.audit.auditor import Auditor, Findings
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage, build_message
from tests.support.bus_stream import BEGIN, SUBJECTS, config, stream

COUNT = 200
Lines = list[RecordedMessage]


def run_audit(
    lines: Iterable[RecordedMessage], of: Config | None = None, *, since: int = 0, whole: bool = True
) -> Findings:
    """The findings on some lines."""
    audit = Auditor((of or config(2)).domains, since, whole=whole)
    for line in lines:
        audit.check(line)
    return audit.finish()


def rules(lines: Iterable[RecordedMessage]) -> set[str]:
    """The rules that some lines break."""
    return {one.rule for one in run_audit(lines).breaches}


@pytest.fixture
def sound() -> Lines:
    """A sound stretch of messages."""
    return list(stream(config(2), COUNT, actions=True))


def nth(lines: Lines, kind: str, n: int) -> int:
    """The position of the ``n``-th message of a kind."""
    return [i for i, line in enumerate(lines) if line.kind == kind][n]


def edit(line: RecordedMessage, change: Callable[[dict[str, object]], object]) -> RecordedMessage:
    """A line with another body."""
    body = msgspec.json.decode(line.payload)
    change(body)
    return build_message(line.kind, line.subject, line.seq, line.time, line.headers, msgspec.json.encode(body))


def renumber(lines: Lines) -> Lines:
    """Lines whose stream sequences have no gap, so that a loss is not visible there."""
    counts: dict[str, int] = {}
    found = []
    for line in lines:
        if line.kind == "action":
            counts[line.kind] = counts.get(line.kind, 0) + 1
            line = structs.replace(line, seq=counts[line.kind])  # noqa: PLW2901
        found.append(line)
    return found


def test_a_sound_stretch_passes(sound: Lines) -> None:
    """No fault is reported, and every decision was made again."""
    found = run_audit(sound)
    assert found.breaches == []
    assert found.notes == []
    assert (found.samples, found.decisions, found.remade) == (2 * COUNT, 2 * COUNT, 2 * COUNT)
    assert found.actions > COUNT


def test_a_stretch_that_begins_in_the_middle_passes(sound: Lines) -> None:
    """Messages from before the stretch are not missed."""
    for start in range(300, 320):
        found = run_audit(sound[start:])
        assert found.breaches == []
    assert any("before the range" in note for start in range(300, 320) for note in run_audit(sound[start:]).notes)


@pytest.mark.parametrize("kind", ["sample", "decision", "action"])
def test_a_dropped_message(sound: Lines, kind: str) -> None:
    """A gap in a stream's sequences is named, whatever the kind."""
    lost = sound.pop(nth(sound, kind, 150))
    found = run_audit(sound)
    assert f"{kind} {lost.seq} missing" in [one.what for one in found.breaches]


@pytest.mark.parametrize("n", [10, 100, 200])
def test_a_dropped_action_leaves_a_limit_without_a_cause(sound: Lines, n: int) -> None:
    """This works without a gap in the sequences: the next action finds a limit that no action left."""
    at = nth(sound, "action", n)
    lost = decode_message(sound.pop(at))
    assert isinstance(lost, Action)
    breaks = run_audit(renumber(sound)).breaches
    assert [(one.rule, one.where) for one in breaks] == [("chain", lost.target)]
    assert f"found {lost.limit} kbit/s" in breaks[0].what


def test_the_last_action_dropped(sound: Lines) -> None:
    """A decision that changes a limit without an action is found, even if no later action shows it."""
    lost = decode_message(sound[nth(sound, "action", 99)])
    assert isinstance(lost, Action)
    first = nth(sound, "action", 99)
    gone = [
        line
        for line in sound[first:]
        if line.kind == "action" and getattr(decode_message(line), "target", "") == lost.target
    ]
    kept = [line for line in sound if line not in gone]
    breaks = [one for one in run_audit(renumber(kept)).breaches if one.where == lost.target]
    assert breaks
    assert "no action followed" in breaks[0].what


def test_a_patch_without_a_cause(sound: Lines) -> None:
    """An action that names no decision, an unknown one, or one with another content."""
    at = nth(sound, "action", 100)
    for change, text in (
        (lambda body: body.pop("decision"), "names none"),
        (lambda body: body.update(decision="cell-0:1:proportional/1"), "there is no such decision"),
        (lambda body: body.update(seq=body["seq"] + 1), "another epoch"),
        (lambda body: body.update(limit=body["limit"] + 1), "and decision"),
    ):
        lines = [*sound[:at], edit(sound[at], change), *sound[at + 1 :]]
        assert text in " ".join(one.what for one in run_audit(lines).breaches if one.rule == "cause")


def test_a_decision_without_a_sample(sound: Lines) -> None:
    """A decision without its sample is found, and so is a sample without a decision."""
    at = nth(sound, "sample", 200)
    assert any("is not in the recording" in one.what for one in run_audit(sound[:at] + sound[at + 1 :]).breaches)
    decided = nth(sound, "decision", 200)
    assert any("never decided on" in one.what for one in run_audit(sound[:decided] + sound[decided + 1 :]).breaches)


def test_a_decision_that_names_another_sample(sound: Lines) -> None:
    """The header with the position to continue from must name the answered sample."""
    at = nth(sound, "decision", 100)
    line = sound[at]
    sound[at] = structs.replace(line, headers={**line.headers, "Sluice-Sample-Seq": str(line.seq + 1)})
    assert rules(sound) == {"cause"}


def test_reordered_decisions(sound: Lines) -> None:
    """Two decisions of a domain in reversed order are found, with or without the stream's numbers."""
    one, other = nth(sound, "decision", 100), nth(sound, "decision", 102)
    swapped = list(sound)
    swapped[one], swapped[other] = sound[other], sound[one]
    assert {"whole", "sequence"} <= rules(swapped)
    first, second = sound[one], sound[other]
    swapped[one] = structs.replace(second, seq=first.seq, time=first.time)
    swapped[other] = structs.replace(first, seq=second.seq, time=second.time)
    found = {one.rule for one in run_audit(swapped).breaches}
    assert "sequence" in found
    assert "whole" not in found


def test_a_repeated_decision(sound: Lines) -> None:
    """The second of two equal decisions is a fault."""
    at = nth(sound, "decision", 100)
    assert "sequence" in rules([*sound[: at + 1], sound[at], *sound[at + 1 :]])


@pytest.mark.parametrize("where", ["decision", "state", "both"])
def test_a_tampered_limit(sound: Lines, where: str) -> None:
    """A limit that does not follow from the sample is found, even within its bounds."""

    def tamper(body: dict[str, object]) -> None:
        targets: list[dict[str, object]] = body["targets"]  # type: ignore[assignment]
        key = str(targets[0]["target"])
        if where != "state":
            targets[0]["limit"] = 6_000
        if where != "decision":
            body["state"]["shield"][key]["limit"] = 6_000  # type: ignore[index]

    at = nth(sound, "decision", 100)
    sound[at] = edit(sound[at], tamper)
    found = [one for one in run_audit(sound).breaches if one.rule == "decision"]
    assert any("does not follow" in one.what for one in found)


def test_limits_out_of_bounds(sound: Lines) -> None:
    """A decision or an action beyond the configured bounds is found, and so are pods with more than the limit."""
    decided, judge = nth(sound, "decision", 100), nth(sound, "action", 100)
    above = edit(sound[decided], lambda body: body["targets"][0].update(limit=90_001))  # type: ignore[index]
    assert any(one.rule == "bounds" for one in run_audit([*sound[:decided], above, *sound[decided + 1 :]]).breaches)
    for change in (
        lambda body: body.update(limit=90_001),
        lambda body: body["pods"][0].update(limit=body["limit"]),
    ):
        lines = [*sound[:judge], edit(sound[judge], change), *sound[judge + 1 :]]
        assert any(one.rule == "bounds" for one in run_audit(lines).breaches)


def test_an_older_decision_over_a_newer_one(sound: Lines) -> None:
    """An action that applied an older decision after a newer one is found."""
    actions = [line for line in sound if line.kind == "action"]
    target = decode_message(actions[100])
    assert isinstance(target, Action)
    same = [line for line in actions if getattr(decode_message(line), "target", "") == target.target]
    old, new = same[20], same[21]
    late = edit(
        old, lambda body: body.update(applied=new.time + 1, id="again", was=getattr(decode_message(new), "limit", 0))
    )
    at = sound.index(new)
    again = structs.replace(late, seq=new.seq, time=new.time + 1)
    found = run_audit([*sound[: at + 1], again, *sound[at + 1 :]], whole=False)
    assert any("put an older decision in force" in one.what for one in found.breaches)


def test_a_decision_that_was_applied_too_late(sound: Lines) -> None:
    """It was applied long after its expiry: the fence did not hold."""
    at = nth(sound, "action", 100)
    sound[at] = edit(sound[at], lambda body: body.update(applied=body["applied"] + 3600 * 10**9))  # type: ignore[operator]
    assert "fence" in rules(sound)


def test_the_dead_man_never_raises(sound: Lines) -> None:
    """A fail-safe action above the fail-safe limit is found."""
    at = nth(sound, "action", 100)

    def dead_man(body: dict[str, object]) -> None:
        del body["decision"]
        body.update(cause="dead-man", limit=60_000)

    sound[at] = edit(sound[at], dead_man)
    assert any("above the fail-safe limit" in one.what for one in run_audit(sound).breaches)


def test_an_action_by_another_cause_keeps_the_chain(sound: Lines) -> None:
    """A fail-safe after silence, and the next decision's action from there, are valid."""
    of = config(1)
    domain = of.domains[0]
    key = domain.targets[0].key
    lines = list(stream(of, 6, actions=True))
    last = [one for line in lines if isinstance(one := decode_message(line), Action) and one.target == key][-1]
    assert isinstance(last, Action)
    limit = min(last.limit, domain.targets[0].fail_safe)
    silent = Action("s", domain.name, key, "dead-man", "applied", limit, "silence", was=last.limit, applied=BEGIN * 2)
    line = build_message(
        "action", SUBJECTS.action(domain.name, key), 99, lines[-1].time + 60 * 10**9, {}, encode(silent)
    )
    assert run_audit([*lines, line], of, whole=False).breaches == []


def test_an_attempt_on_an_earlier_view_breaks_no_chain(sound: Lines) -> None:
    """A second actuator tried, and nothing was changed; what never was in force, or was changed, is a broken chain."""
    at = nth(sound, "action", 50)
    last = decode_message(sound[at])
    assert isinstance(last, Action)
    earlier = (decode_message(line) for line in sound[:at])
    before = [one for one in earlier if isinstance(one, Action) and one.target == last.target]
    limit = before[-2].limit
    pods = [{"pod": "pod-0", "uid": "uid-0", "outcome": "failed"}]
    tried = edit(sound[at], lambda body: body.update(id="tried", outcome="failed", was=limit, pods=pods))
    assert rules(renumber([*sound[: at + 1], tried, *sound[at + 1 :]])) == set()
    odd = edit(tried, lambda body: body.update(was=7))
    assert rules(renumber([*sound[: at + 1], odd, *sound[at + 1 :]])) == {"chain"}
    done = edit(tried, lambda body: body.update(outcome="applied", pods=[]))
    assert rules(renumber([*sound[: at + 1], done, *sound[at + 1 :]])) == {"chain"}


def test_a_decision_that_is_carried_out_in_two_parts(sound: Lines) -> None:
    """The Pods come first, the Deployment, which another client had changed, later; both found the same value."""
    at = nth(sound, "action", 50)
    rest = edit(sound[at], lambda body: body.update(id="rest"))
    parts = [*sound[: at + 1], rest, *sound[at + 1 :]]
    assert run_audit(renumber(parts)).breaches == []
    # Or another order comes in between, and finds the earlier value on the Deployment.
    pods = edit(sound[at], lambda body: body.update(reason=f"{body['reason']}; Pods only so far"))
    later = edit(sound[at], lambda body: body.update(cause="drift", id="other"))
    assert run_audit(renumber([*sound[:at], pods, later, *sound[at + 1 :]])).breaches == []
    assert rules(renumber([*sound[: at + 1], later, *sound[at + 1 :]])) == {"chain"}
    other = edit(rest, lambda body: body.update(was=7))
    assert rules(renumber([*sound[: at + 1], other, *sound[at + 1 :]])) == {"chain"}


def judge(lines: Lines, at: int, change: Callable[[dict[str, object]], object]) -> list[tuple[str, str]]:
    """The audit's findings with one changed action, as rule and text."""
    return [
        (one.rule, one.what) for one in run_audit([*lines[:at], edit(lines[at], change), *lines[at + 1 :]]).breaches
    ]


def insert_action(lines: Lines, at: int, **fields: object) -> Lines:
    """Lines with one more action, right after the one at ``at`` and otherwise equal."""
    more = edit(lines[at], lambda body: body.update(fields))
    more = structs.replace(more, time=more.time + 1)
    return renumber([*lines[: at + 1], more, *lines[at + 1 :]])


def test_a_report_that_comes_late(sound: Lines) -> None:
    """A crashed actuator's writes are read back and reported after later ones: no link is missing."""
    at = nth(sound, "action", 100)
    target = getattr(decode_message(sound[at]), "target", "")
    later = next(
        i for i in range(at + 1, len(sound)) if target in sound[i].payload.decode() and sound[i].kind == "action"
    )
    late = structs.replace(
        edit(sound[at], lambda body: body.update(reason="read back from the objects: its report may")),
        time=sound[later].time + 1,
    )
    assert run_audit(renumber([*sound[:at], *sound[at + 1 : later + 1], late, *sound[later + 1 :]])).breaches == []


def test_an_actuators_clock_that_is_set_back(sound: Lines) -> None:
    """Its later reports do not count as earlier ones: the chain continues, and a missing link is found."""
    at = nth(sound, "action", 100)
    target = getattr(decode_message(sound[at]), "target", "")
    chain = [i for i in range(at, len(sound)) if target in sound[i].payload.decode() and sound[i].kind == "action"]
    lines = list(sound)
    for i in chain[1:]:
        lines[i] = edit(sound[i], lambda body: body.update(applied=body["applied"] - 10**10))  # type: ignore[operator]
    assert run_audit(lines).breaches == []
    del lines[chain[3]]
    assert "chain" in rules(renumber(lines))


def test_a_crash_amid_the_patches(sound: Lines) -> None:
    """An action on Pods may not have reached their Deployment: the next one finds the earlier value."""
    at = nth(sound, "action", 100)
    cut = edit(sound[at], lambda body: body.update(id="cut", reason="read back from the objects: its report may"))
    target, was = (getattr(decode_message(sound[at]), name, "") for name in ("target", "was"))
    later = next(
        i for i in range(at + 1, len(sound)) if target in sound[i].payload.decode() and sound[i].kind == "action"
    )
    sound[at], sound[later] = cut, edit(sound[later], lambda body: body.update(was=was))
    assert run_audit(sound).breaches == []
    sound[at] = edit(cut, lambda body: body.update(reason="steady"))
    assert rules(sound) == {"chain"}


@pytest.mark.parametrize("cause", ["drift", "new-pod", "rescale"])
def test_an_action_that_keeps_a_limit_up(sound: Lines, cause: str) -> None:
    """A corrected Pod gets the current limit, with its decision or after a fail-safe."""
    at = nth(sound, "action", 100)
    limit = getattr(decode_message(sound[at]), "limit", 0)
    assert run_audit(insert_action(sound, at, cause=cause, id="again", was=limit)).breaches == []
    forged: dict[str, object] = {"cause": cause, "id": "forged", "was": limit, "limit": limit + 3_000, "pods": []}
    found = run_audit(insert_action(sound, at, **forged)).breaches
    assert ("cause", "forged") in [(one.rule, one.what.split()[1]) for one in found]
    found = run_audit(insert_action(sound, at, **forged, decision=None, sampled=None)).breaches
    assert any(one.rule == "cause" and f"and {limit} were in force" in one.what for one in found)


def test_a_limit_without_a_decision_is_a_fail_safe_one(sound: Lines) -> None:
    """Whatever the cause, no limit rises above the fail-safe limit without a decision."""
    at = nth(sound, "action", 100)
    target = config(2).domains[0].targets[0]
    forged: dict[str, object] = {"cause": "new-pod", "decision": None, "limit": int(target.fail_safe) + 1, "pods": []}
    found = run_audit(insert_action([sound[at]], 0, **forged)).breaches
    assert any("is above the fail-safe limit" in one.what for one in found)


def test_a_blind_decision_does_not_raise(sound: Lines) -> None:
    """If a decision without data has a higher limit, an actuator keeps the lower one, and need not report it."""
    of = config(1)
    lines = list(stream(of, COUNT, actions=True))
    blind = [
        i for i, line in enumerate(lines) if isinstance(one := decode_message(line), Decision) and one.stress is None
    ]
    acts = [i for i in range(len(lines)) if lines[i].kind == "action" and lines[i - 1].kind == "decision"]
    at = next(i for i in acts if i - 1 in blind)
    lower = edit(lines[at], lambda body: body.update(limit=body["limit"] - 100, pods=[]))  # type: ignore[operator]
    assert run_audit([*lines[:at], lower], of).breaches == []
    sighted = next(i for i in acts if i - 1 not in blind)
    changed = judge(lines, sighted, lambda body: body.update(limit=body["limit"] - 100))  # type: ignore[operator]
    assert "cause" in {rule for rule, _ in changed}


def test_pods_that_do_not_fit_their_action(sound: Lines) -> None:
    """A failed Pod makes its action fail, and each Pod gets an even share of the limit."""
    at = nth(sound, "action", 100)

    def all_pods(**fields: object) -> Callable[[dict[str, object]], object]:
        return lambda body: [pod.update(fields) for pod in body["pods"]]  # type: ignore[attr-defined]

    assert ("cause", "failed") in [
        (rule, what.split()[-1])
        for rule, what in judge(sound, at, lambda body: body["pods"][0].update(outcome="failed"))  # type: ignore[index]
    ]
    uneven = judge(sound, at, lambda body: body["pods"][0].update(limit=1))  # type: ignore[index]
    assert any("no share of" in what for _, what in uneven)
    assert any("no share of" in what for _, what in judge(sound, at, all_pods(limit=4_999)))
    # Alone it could mean that there are many Pods; those before and after show the number.
    assert any("divided among 3 to 3 pods" in what for _, what in judge(sound, at, all_pods(limit=1)))


def test_a_repeated_action(sound: Lines) -> None:
    """A repeated sequence, or a step back that is not to 1, is no wiped stream."""
    at = nth(sound, "action", 100)
    assert rules([*sound[: at + 1], sound[at], *sound[at + 1 :]]) == {"whole"}
    sound[at] = structs.replace(sound[at], seq=sound[at].seq - 7)
    assert "whole" in rules(sound)


def test_a_wiped_stream_begins_at_one(sound: Lines) -> None:
    """A note reports it, and it is no fault."""
    at = nth(sound, "action", 100)
    for i in range(at, len(sound)):
        if sound[i].kind == "action":
            sound[i] = structs.replace(sound[i], seq=sound[i].seq - 100)
    found = run_audit(sound)
    assert found.breaches == []
    assert any("restarted" in note for note in found.notes)


def test_decisions_that_stop(sound: Lines) -> None:
    """Samples without a decision are found at the end of a stretch as well, except for the most recent ones."""
    last = nth(sound, "decision", 300)
    kept = [line for line in sound[:last] if line.kind != "action"] + [
        line for line in sound[last:] if line.kind == "sample"
    ]
    samples = [line for line in sound[last - 1 :] if line.kind == "sample"]
    found = [one for one in run_audit(kept).breaches if "never decided on" in one.what]
    grace = config(2).domains[0].dead_man
    assert len(found) == sum(line.time + grace < kept[-1].time for line in samples) > 10
    assert {one.time for one in found} <= {line.time for line in samples}


@pytest.mark.parametrize("kind", ["sample", "decision"])
def test_a_whole_kind_that_is_missing(sound: Lines, kind: str) -> None:
    """Without its decisions no action has a cause, and without its samples no decision has."""
    found = run_audit([line for line in sound if line.kind != kind])
    assert {one.rule for one in found.breaches} == {"cause"}
    assert {one.where for one in found.breaches} >= {"cell-0", "cell-1"}


def test_past_metrics_have_no_decisions_to_miss(sound: Lines) -> None:
    """If a recording has no decisions, none is missing."""
    audit = Auditor(config(2).domains, 0, whole=True, kinds=("sample",))
    for line in sound:
        if line.kind == "sample":
            audit.check(line)
    assert audit.finish().breaches == []


def test_no_action_on_one_of_the_targets(sound: Lines) -> None:
    """A target without actions, while others have some, is found; or noted, if it may lie before the stretch."""
    key = config(2).domains[0].targets[0].key
    kept = renumber([line for line in sound if line.kind != "action" or key not in line.payload.decode()])
    assert [(one.rule, one.where) for one in run_audit(kept).breaches] == [("cause", key)]
    late = run_audit(kept[300:])
    assert late.breaches == []
    assert any(key in note and "no action on it at all" in note for note in late.notes)


def test_a_configuration_of_something_else(sound: Lines) -> None:
    """If the configuration knows no domain of the decisions, they were not checked, and that is no success."""
    strange = structs.replace(config().domains[0], name="elsewhere")
    audit = Auditor((strange,), 0, whole=True)
    for line in sound:
        audit.check(line)
    assert [one.rule for one in audit.finish().breaches] == ["decision"]


def test_a_restored_target_is_noted(sound: Lines) -> None:
    """Afterwards nothing is due on the target, and any limit is valid until Sluice sets one again."""
    at = nth(sound, "action", 100)
    target = getattr(decode_message(sound[at]), "target", "")
    later = [i for i in range(at + 1, len(sound)) if sound[i].kind == "action" and target in sound[i].payload.decode()]
    gone = edit(sound[at], lambda body: body.update(cause="restore", decision=None, limit=0, pods=[]))
    lines = [gone if i == at else line for i, line in enumerate(sound) if i not in later[:-1]]
    found = run_audit(renumber(lines))
    assert found.breaches == []
    assert any(f"{target} was restored" in note for note in found.notes)


def test_a_paused_target(sound: Lines) -> None:
    """An actuator reports once that it pauses a target: nothing is due, and later values are not its own."""
    at = nth(sound, "action", 100)
    target = getattr(decode_message(sound[at]), "target", "")
    later = [i for i in range(at + 1, len(sound)) if sound[i].kind == "action" and target in sound[i].payload.decode()]
    skipped: dict[str, object] = {
        "outcome": "skipped",
        "reason": "paused: somebody else set 7M",
        "pods": [],
        "applied": None,
        "was": None,
    }
    lines = list(sound)
    lines[at] = edit(sound[at], lambda body: body.update(skipped))
    lines[later[-1]] = edit(sound[later[-1]], lambda body: body.pop("was"))
    assert run_audit(renumber([line for i, line in enumerate(lines) if i not in later[:-1]])).breaches == []
    lines[at] = edit(lines[at], lambda body: body.update(reason="it expired before it could be put in force"))
    found = run_audit(renumber([line for i, line in enumerate(lines) if i not in later[:-1]])).breaches
    assert {one.rule for one in found} == {"cause", "chain"}


def test_all_differences_are_counted(sound: Lines) -> None:
    """Each decision that does not follow from its sample is a break, with its time."""
    changed = [
        edit(line, lambda body: body.update(reason="another")) if line.kind == "decision" else line for line in sound
    ]
    found = run_audit(changed).breaches
    assert len(found) == 2 * COUNT
    assert {one.time for one in found} == {line.time for line in sound if line.kind == "decision"}


def test_what_is_not_wrong_is_noted(sound: Lines) -> None:
    """Dead letters, unreadable messages, a wiped stream and unknown domains are notes, not faults."""
    letter = encode(DeadLetter("sluice.sample.v1.x", "decision", "not JSON", ""))
    extra = [
        build_message("dead", "sluice.dead.v1.decision", 1, sound[-1].time + 1, {}, letter),
        build_message("sample", "sluice.sample.v1.cell-0", sound[-1].seq + 900, sound[-1].time + 2, {}, b"nonsense"),
    ]
    found = run_audit([*sound, *extra], whole=False)
    assert found.breaches == []
    assert any("put aside" in note for note in found.notes)
    assert any("cannot be read" in note for note in found.notes)
    strange = run_audit(sound, config(1))
    assert any("not in the configuration: cell-1" in note for note in strange.notes)
    without = run_audit([line for line in sound if line.kind != "action"])
    assert any("no action at all" in note for note in without.notes)
    bare = Auditor((), 0, whole=True)
    for line in sound:
        bare.check(line)
    blind = bare.finish()
    assert blind.breaches == []
    assert any("without a configuration" in note for note in blind.notes)


def test_a_limit_that_was_in_force_for_very_long(monkeypatch: pytest.MonkeyPatch, sound: Lines) -> None:
    """An action for a decision from before the audit's memory is no fault."""
    monkeypatch.setattr("services.tools.audit.streams._KEPT", 50)
    early = decode_message(sound[nth(sound, "action", 5)])
    assert isinstance(early, Action)
    late = nth(sound, "action", -1)
    last = decode_message(sound[late])
    assert isinstance(last, Action)
    fields = ("decision", "epoch", "seq", "sampled")
    changed = edit(
        sound[late],
        lambda body: body.update({name: getattr(early, name) for name in fields} | {"cause": "drift"}),
    )
    found = run_audit([*sound[:late], changed, *sound[late + 1 :]])
    assert not [one for one in found.breaches if "no such decision" in one.what]
    assert any("actions come from decisions before" in note for note in found.notes)


@pytest.mark.parametrize("is_early", [True, False])
def test_an_action_beside_a_change_of_bounds(sound: Lines, is_early: bool) -> None:
    """The actuator acts by a definition before it is stored, and reports what it wrote by the one before after it."""
    first = config(2).domains[0]
    number = next(
        i
        for i, line in enumerate(sound)
        if line.kind == "action" and (one := decode_message(line)) and one.domain == first.name  # type: ignore[union-attr]
    )
    action = decode_message(sound[number])
    assert isinstance(action, Action)
    target = next(one for one in first.targets if one.key == action.target)
    least = structs.replace(target, min=Rate(action.limit + 1000), fail_safe=Rate(action.limit + 1000))
    audit = TargetAudit(target.key, target)
    decision = next(
        one
        for line in sound
        if line.kind == "decision" and (one := decode_message(line)) and one.id == action.decision  # type: ignore[union-attr]
    )
    assert isinstance(decision, Decision)
    part = next(one for one in decision.targets if one.target == target.key)
    audit.add_decision(decision, part, sound[number])
    if is_early:
        audit.check_action(structs.replace(action, limit=least.min, pods=()), sound[number], None)
        assert [one.rule for one in audit.breaches] == ["cause"]
        audit.define(least)
    else:
        audit.define(least)
        audit.check_action(structs.replace(action, pods=()), sound[number], None)
    assert audit.breaches == []
