"""The audit: a sound stretch passes, and each thing that can be wrong is found, by its own rule."""

from collections.abc import Callable, Iterable

import msgspec
import pytest
from msgspec import structs

from schemas.config import Config
from schemas.messages import Action, DeadLetter, encode
from services.tools.auditing import Audit, Findings
from services.tools.recording import Line, line_of
from services.tools.words import read
from tests.bus_stream import BEGIN, SUBJECTS, config, stream

COUNT = 200
Lines = list[Line]


def audited(lines: Iterable[Line], of: Config | None = None, *, since: int = 0, whole: bool = True) -> Findings:
    """The findings on some lines."""
    audit = Audit((of or config(2)).domains, since, whole=whole)
    for line in lines:
        audit.take(line)
    return audit.end()


def rules(lines: Iterable[Line]) -> set[str]:
    """The rules that some lines break."""
    return {one.rule for one in audited(lines).breaks}


@pytest.fixture
def sound() -> Lines:
    """A stretch on which all is well."""
    return list(stream(config(2), COUNT, actions=True))


def nth(lines: Lines, kind: str, n: int) -> int:
    """Where the ``n``-th message of a kind stands."""
    return [i for i, line in enumerate(lines) if line.kind == kind][n]


def edited(line: Line, change: Callable[[dict[str, object]], object]) -> Line:
    """A line with another body."""
    body = msgspec.json.decode(line.payload)
    change(body)
    return line_of(line.kind, line.subject, line.seq, line.time, line.headers, msgspec.json.encode(body))


def renumbered(lines: Lines) -> Lines:
    """Lines whose stream sequences have no gap, so that a loss does not show there."""
    counts: dict[str, int] = {}
    found = []
    for line in lines:
        if line.kind == "action":
            counts[line.kind] = counts.get(line.kind, 0) + 1
            line = structs.replace(line, seq=counts[line.kind])  # noqa: PLW2901
        found.append(line)
    return found


def test_a_sound_stretch_passes(sound: Lines) -> None:
    """Nothing is found where nothing is wrong, and every decision was made again."""
    found = audited(sound)
    assert found.breaks == []
    assert found.notes == []
    assert (found.samples, found.decisions, found.remade) == (2 * COUNT, 2 * COUNT, 2 * COUNT)
    assert found.actions > COUNT


def test_a_stretch_that_begins_in_the_middle_passes(sound: Lines) -> None:
    """What lies before the stretch is no fault of it."""
    for start in range(300, 320):
        found = audited(sound[start:])
        assert found.breaks == []
    assert any("before the stretch" in note for start in range(300, 320) for note in audited(sound[start:]).notes)


@pytest.mark.parametrize("kind", ["sample", "decision", "action"])
def test_a_dropped_message(sound: Lines, kind: str) -> None:
    """A gap in a stream's sequences is named, whatever the kind."""
    lost = sound.pop(nth(sound, kind, 150))
    found = audited(sound)
    assert f"{kind} {lost.seq} missing" in [one.what for one in found.breaks]


@pytest.mark.parametrize("n", [10, 100, 200])
def test_a_dropped_action_leaves_a_limit_that_nobody_set(sound: Lines, n: int) -> None:
    """Even where the sequences do not show it: the next action finds a limit that no action left."""
    at = nth(sound, "action", n)
    lost = read(sound.pop(at))
    assert isinstance(lost, Action)
    breaks = audited(renumbered(sound)).breaks
    assert [(one.rule, one.where) for one in breaks] == [("chain", lost.target)]
    assert f"found {lost.limit} kbit/s" in breaks[0].what


def test_the_last_action_dropped(sound: Lines) -> None:
    """A decision that moves a limit and is never acted on is found, without any later action to tell."""
    lost = read(sound[nth(sound, "action", 99)])
    assert isinstance(lost, Action)
    first = nth(sound, "action", 99)
    gone = [
        line for line in sound[first:] if line.kind == "action" and getattr(read(line), "target", "") == lost.target
    ]
    kept = [line for line in sound if line not in gone]
    breaks = [one for one in audited(renumbered(kept)).breaks if one.where == lost.target]
    assert breaks
    assert "no action says that anything was done" in breaks[0].what


def test_a_patch_without_a_cause(sound: Lines) -> None:
    """An action that names no decision, one that does not exist, or one that said otherwise."""
    at = nth(sound, "action", 100)
    for change, told in (
        (lambda body: body.pop("decision"), "names none"),
        (lambda body: body.update(decision="cell-0:1:proportional/1"), "there is no such decision"),
        (lambda body: body.update(seq=body["seq"] + 1), "another place"),
        (lambda body: body.update(limit=body["limit"] + 1), "and decision"),
    ):
        lines = [*sound[:at], edited(sound[at], change), *sound[at + 1 :]]
        assert told in " ".join(one.what for one in audited(lines).breaks if one.rule == "cause")


def test_a_decision_without_a_sample(sound: Lines) -> None:
    """A decision whose sample is not there is found, and so is a sample that was never decided on."""
    at = nth(sound, "sample", 200)
    assert any("is not in the recording" in one.what for one in audited(sound[:at] + sound[at + 1 :]).breaks)
    decided = nth(sound, "decision", 200)
    assert any("never decided on" in one.what for one in audited(sound[:decided] + sound[decided + 1 :]).breaks)


def test_a_decision_that_names_another_sample(sound: Lines) -> None:
    """The header that says where to go on from must name the sample that was answered."""
    at = nth(sound, "decision", 100)
    line = sound[at]
    sound[at] = structs.replace(line, headers={**line.headers, "Sluice-Sample-Seq": str(line.seq + 1)})
    assert rules(sound) == {"cause"}


def test_reordered_decisions(sound: Lines) -> None:
    """Two decisions of a domain that changed places are found, whether or not the stream's numbers tell."""
    one, other = nth(sound, "decision", 100), nth(sound, "decision", 102)
    swapped = list(sound)
    swapped[one], swapped[other] = sound[other], sound[one]
    assert {"whole", "sequence"} <= rules(swapped)
    first, second = sound[one], sound[other]
    swapped[one] = structs.replace(second, seq=first.seq, time=first.time)
    swapped[other] = structs.replace(first, seq=second.seq, time=second.time)
    found = {one.rule for one in audited(swapped).breaks}
    assert "sequence" in found
    assert "whole" not in found


def test_a_repeated_decision(sound: Lines) -> None:
    """The same decision twice is one too many."""
    at = nth(sound, "decision", 100)
    assert "sequence" in rules([*sound[: at + 1], sound[at], *sound[at + 1 :]])


@pytest.mark.parametrize("where", ["decision", "state", "both"])
def test_a_tampered_limit(sound: Lines, where: str) -> None:
    """A limit that the sample does not give is found, wherever it was changed, though within its bounds."""

    def tamper(body: dict[str, object]) -> None:
        targets: list[dict[str, object]] = body["targets"]  # type: ignore[assignment]
        key = str(targets[0]["target"])
        if where != "state":
            targets[0]["limit"] = 6_000
        if where != "decision":
            body["state"]["shield"][key]["limit"] = 6_000  # type: ignore[index]

    at = nth(sound, "decision", 100)
    sound[at] = edited(sound[at], tamper)
    found = [one for one in audited(sound).breaks if one.rule == "decision"]
    assert any("does not follow" in one.what for one in found)


def test_limits_out_of_bounds(sound: Lines) -> None:
    """A decision or an action beyond the configured bounds is found, and so are pods that get more than the limit."""
    decided, acted = nth(sound, "decision", 100), nth(sound, "action", 100)
    above = edited(sound[decided], lambda body: body["targets"][0].update(limit=90_001))  # type: ignore[index]
    assert any(one.rule == "bounds" for one in audited([*sound[:decided], above, *sound[decided + 1 :]]).breaks)
    for change in (
        lambda body: body.update(limit=90_001),
        lambda body: body["pods"][0].update(limit=body["limit"]),
    ):
        lines = [*sound[:acted], edited(sound[acted], change), *sound[acted + 1 :]]
        assert any(one.rule == "bounds" for one in audited(lines).breaks)


def test_an_older_decision_over_a_newer_one(sound: Lines) -> None:
    """An action that put an older decision in force after a newer one's is found."""
    actions = [line for line in sound if line.kind == "action"]
    target = read(actions[100])
    assert isinstance(target, Action)
    same = [line for line in actions if getattr(read(line), "target", "") == target.target]
    old, new = same[20], same[21]
    late = edited(old, lambda body: body.update(applied=new.time + 1, id="again", was=getattr(read(new), "limit", 0)))
    at = sound.index(new)
    again = structs.replace(late, seq=new.seq, time=new.time + 1)
    found = audited([*sound[: at + 1], again, *sound[at + 1 :]], whole=False)
    assert any("put an older decision in force" in one.what for one in found.breaks)


def test_a_decision_that_was_applied_too_late(sound: Lines) -> None:
    """Applied long after it expired: the fence did not hold."""
    at = nth(sound, "action", 100)
    sound[at] = edited(sound[at], lambda body: body.update(applied=body["applied"] + 3600 * 10**9))  # type: ignore[operator]
    assert "fence" in rules(sound)


def test_the_dead_man_never_raises(sound: Lines) -> None:
    """A fail-safe action above the fail-safe limit is found."""
    at = nth(sound, "action", 100)

    def dead_man(body: dict[str, object]) -> None:
        del body["decision"]
        body.update(cause="dead-man", limit=60_000)

    sound[at] = edited(sound[at], dead_man)
    assert any("above the fail-safe limit" in one.what for one in audited(sound).breaks)


def test_an_action_by_another_cause_keeps_the_chain(sound: Lines) -> None:
    """A fail-safe after silence, and the next decision's action from there, are as they must be."""
    of = config(1)
    domain = of.domains[0]
    key = domain.targets[0].key
    lines = [line for line in stream(of, 6, actions=True) if line.kind != "action" or key in line.payload.decode()]
    last = [read(line) for line in lines if line.kind == "action"][-1]
    assert isinstance(last, Action)
    limit = min(last.limit, domain.targets[0].fail_safe)
    silent = Action("s", domain.name, key, "dead-man", "applied", limit, "silence", was=last.limit, applied=BEGIN * 2)
    line = line_of("action", SUBJECTS.action(domain.name, key), 99, lines[-1].time + 60 * 10**9, {}, encode(silent))
    assert audited([*lines, line], of, whole=False).breaks == []


def test_a_decision_that_is_carried_out_in_two_parts(sound: Lines) -> None:
    """The Pods first, and the Deployment, which somebody had touched meanwhile, a moment later: both found the same."""
    at = nth(sound, "action", 50)
    rest = edited(sound[at], lambda body: body.update(id="rest"))
    parts = [*sound[: at + 1], rest, *sound[at + 1 :]]
    assert audited(renumbered(parts)).breaks == []
    other = edited(rest, lambda body: body.update(was=7))
    assert rules(renumbered([*sound[: at + 1], other, *sound[at + 1 :]])) == {"chain"}


def test_what_is_not_wrong_is_noted(sound: Lines) -> None:
    """Dead letters, unreadable messages, a wiped stream and unknown domains are told without being faults."""
    letter = encode(DeadLetter("sluice.sample.v1.x", "decision", "not JSON", ""))
    extra = [
        line_of("dead", "sluice.dead.v1.decision", 1, sound[-1].time + 1, {}, letter),
        line_of("sample", "sluice.sample.v1.cell-0", sound[-1].seq + 900, sound[-1].time + 2, {}, b"nonsense"),
    ]
    found = audited([*sound, *extra], whole=False)
    assert found.breaks == []
    assert any("put aside" in note for note in found.notes)
    assert any("cannot be read" in note for note in found.notes)
    strange = audited(sound, config(1))
    assert any("not in the configuration: cell-1" in note for note in strange.notes)
    without = audited([line for line in sound if line.kind != "action"])
    assert any("no action at all" in note for note in without.notes)
    bare = Audit((), 0, whole=True)
    for line in sound:
        bare.take(line)
    blind = bare.end()
    assert blind.breaks == []
    assert any("no configuration" in note for note in blind.notes)


def test_a_limit_that_was_in_force_for_very_long(monkeypatch: pytest.MonkeyPatch, sound: Lines) -> None:
    """An action that names a decision from longer ago than an audit remembers is no fault."""
    monkeypatch.setattr("services.tools.audit_streams._KEPT", 50)
    early = read(sound[nth(sound, "action", 5)])
    assert isinstance(early, Action)
    late = nth(sound, "action", -1)
    last = read(sound[late])
    assert isinstance(last, Action)
    fields = ("decision", "epoch", "seq", "sampled")
    changed = edited(
        sound[late],
        lambda body: body.update({name: getattr(early, name) for name in fields} | {"cause": "drift"}),
    )
    found = audited([*sound[:late], changed, *sound[late + 1 :]])
    assert not [one for one in found.breaks if "no such decision" in one.what]
    assert any("actions come from decisions before" in note for note in found.notes)
