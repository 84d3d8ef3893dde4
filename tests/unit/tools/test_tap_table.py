"""The live table: its figures for each domain, and its choice of domains if there is not room for all."""

from dataclasses import replace
from io import StringIO

from msgspec import structs

from schemas.config import Config
from schemas.definition import Definition, DefinitionSource
from schemas.messages import Action, DeadLetter, Decision, PodOutcome, Sample
from services.tools.common.formatting import decode_message
from services.tools.common.output import TerminalConsole
from services.tools.tap.state import BusStatus
from services.tools.tap.table import build_table
from services.tools.tap.view import LiveView
from tests.support.bus_stream import config, stream


def render(status: BusStatus, size: tuple[int, int] = (150, 60), now: float = 1.0, failure: str | None = None) -> str:
    """The table as text."""
    screen = StringIO()
    TerminalConsole(width=size[0], height=size[1], file=screen).print(build_table(status, now, size, failure))
    return screen.getvalue()


def fill_status(of: Config, count: int = 30) -> BusStatus:
    """A status after a generated stream."""
    status = BusStatus(of.domains)
    for line in stream(of, count):
        status.add(line.kind, decode_message(line), 1.0)
    return status


def last(status: BusStatus, domain: str = "cell-0") -> tuple[Sample, Decision]:
    """The last sample and decision of a domain."""
    found = status.domains[domain]
    assert found.sample is not None
    assert found.decision is not None
    return found.sample, found.decision


def test_latency_is_beside_its_slo_and_limits_beside_goodput() -> None:
    """Jitter, P95 and SLO, limit and goodput, the last action and the last reason are shown."""
    status = fill_status(config())
    sample, decision = last(status)
    sample = structs.replace(sample, no_data=None)
    status.add("sample", sample, 1.0)
    pods = tuple(PodOutcome(f"telemetry-{i}", f"{i}", "applied", 9_000) for i in range(3))
    target = decision.targets[0]
    status.add("action", Action("a", "cell-0", target.target, "drift", "applied", target.limit, "x", pods=pods), 1.0)
    text = render(status, (180, 60))
    measure = sample.critical[0]
    assert measure.jitter is not None
    assert f"{measure.jitter * 1000:.3g} / 2" in text
    assert f"{target.limit / 1000:.1f}M" in text
    assert f"{(sample.targets[0].throughput or 0) / 1000:.1f}M" in text
    assert "drift: applied on 3 pods" in text
    assert decision.reason in text
    broken = sum(decode_message(line).violated for line in stream(config(), 30) if line.kind == "decision")  # type: ignore[union-attr]
    assert f"{broken} of 30 windows broke an SLO" in text


def test_a_broken_slo_comes_first() -> None:
    """If there is room for few domains, the worst are shown, and the others are counted."""
    status = fill_status(config(30))
    for name, one in status.domains.items():
        assert one.decision is not None
        one.decision = structs.replace(
            one.decision, violated=name == "cell-17", stress=3.0 if name == "cell-17" else 0.2
        )
    text = render(status, (150, 12))
    assert "cell-17" in text.splitlines()[3]
    assert "SLO broken" in text.splitlines()[3]
    assert "and 24 more domains" in text
    assert len(text.splitlines()) <= 12


def test_it_fits_narrow_and_low_screens() -> None:
    """Whatever the size, no line is longer and the table is no higher than the screen."""
    status = fill_status(config(3))
    for size in ((60, 20), (80, 24), (110, 40), (129, 60), (130, 60), (200, 16)):
        lines = render(status, size).splitlines()
        assert max(map(len, lines)) <= size[0]
        assert len(lines) <= size[1]


def test_silence_blindness_and_trouble_are_shown() -> None:
    """No decision yet, no message for a while, no data, dead letters and a lost bus each show."""
    status = BusStatus(config(2).domains)
    assert "nothing decided yet" in render(status)
    status = fill_status(config())
    assert "silent for 9 s" in render(status, now=10.0)
    one = status.domains["cell-0"]
    assert one.decision is not None
    one.decision = structs.replace(one.decision, stress=None, violated=False)
    assert "blind" in render(status)
    status.add("dead", DeadLetter("sluice.sample.v1.x", "decision", "not JSON", ""), 1.0)
    text = render(status, failure="connection refused")
    assert "1 put aside, last: not JSON" in text
    assert "connection refused" in text


def test_domains_that_are_not_configured_are_shown_without_slos() -> None:
    """A tap without a configuration still shows the messages' figures."""
    status = BusStatus(())
    for line in stream(config(), 5):
        status.add(line.kind, decode_message(line), 1.0)
    text = render(status)
    assert "robot-control" in text
    assert " / 2" not in text


def test_domains_that_stand_alike_keep_their_places() -> None:
    """A table does not reorder its rows whenever a latency changes a little."""
    status = fill_status(config(4))
    for name, stress in zip(status.domains, (0.3, 0.7, 0.1, 0.9), strict=True):
        one = status.domains[name]
        assert one.decision is not None
        one.decision = structs.replace(one.decision, violated=False, stress=stress)
    assert [one.name for one in status.sort_worst_first()] == ["cell-3", "cell-0", "cell-1", "cell-2"]


def test_limits_for_each_pod_are_shown_as_such() -> None:
    """In full and in short: they do not add up to the rate of all replicas."""
    of = config()
    targets = tuple(structs.replace(target, scope="per-pod") for target in of.domains[0].targets)
    status = fill_status(structs.replace(of, domains=(structs.replace(of.domains[0], targets=targets),)))
    assert f"{last(status)[1].targets[0].limit / 1000:.1f}M/pod" in render(status, (180, 60))
    assert "per pod" in render(status, (180, 5))
    assert "/pod" not in render(fill_status(of), (180, 60))


def test_the_table_shows_what_was_chosen() -> None:
    """The help lists the keys; a filter that nothing passes is named."""
    status = fill_status(config(2), 5)
    for view, text in (
        (LiveView(help=True), "this help"),
        (LiveView(filter="nothing"), "no domain passes the filter"),
        (LiveView(speed=5.0, paused=True), "paused, 5 times as fast, q quits, ? helps"),
    ):
        screen = StringIO()
        TerminalConsole(width=140, height=60, file=screen).print(build_table(status, 0.0, (140, 60), None, view))
        assert text in screen.getvalue()


def fill_fleet(count: int, broken: tuple[int, ...] = (), blind: tuple[int, ...] = ()) -> BusStatus:
    """A status with so many instances of one definition, and a domain of its own."""
    template = fill_status(config(1)).domains["cell-0"]
    assert template.decision is not None
    status = BusStatus(())
    status.domains = {"robots": replace(template, name="robots", decision=within(template.decision, 0.2))}
    for number in range(count):
        name = f"uplink@node-{number}"
        decision = within(template.decision, 0.3)
        if number in broken:
            decision = structs.replace(decision, violated=True, stress=1.5 + number / 1000)
        if number in blind:
            decision = structs.replace(decision, stress=None)
        status.domains[name] = replace(template, name=name, decision=decision)
    return status


def within(decision: Decision, stress: float) -> Decision:
    """A decision on a latency that meets its SLO."""
    return structs.replace(decision, violated=False, stress=stress)


def test_a_thousand_instances_are_one_line_and_the_worst_of_them() -> None:
    """The instances of a definition are counted by state in a line; the broken ones follow, then the blind ones."""
    status = fill_fleet(1_000, broken=(7, 612, 998), blind=(5,))
    status.domains["uplink@node-44"].seen = -30.0
    lines = render(status, (140, 40)).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 140
    (group,) = [line.split() for line in lines if line.strip().startswith("uplink ")]
    assert group[:3] == ["uplink", "1,000", "2.50"], "the worst of all"
    assert "3 SLO broken, 1 blind, 1 silent, 995 within their SLOs" in " ".join(group)
    names = [line.split()[0] for line in lines if "@" in line]
    assert names[:5] == ["uplink@node-612", "uplink@node-7", "uplink@node-998", "uplink@node-5", "uplink@node-44"]
    assert f"and {1_001 - len(names) - 1} more domains" in lines[-2], "the domain of its own has a line too"


def test_instances_without_a_critical_pod_are_not_among_the_blind() -> None:
    """Nothing can be measured there: they are counted apart, and come after all others."""
    status = fill_fleet(100, blind=tuple(range(40, 90)))
    domain = config(1).domains[0]
    for number in range(41, 90):
        name = f"uplink@node-{number}"
        status.add("definition", Definition(name, 1, DefinitionSource(), domain, without_critical=True), 1.0)
    lines = render(status, (160, 120)).splitlines()
    (group,) = [line for line in lines if line.strip().startswith("uplink ")]
    assert "1 blind, 50 within their SLOs, 49 without a critical Pod" in group
    names = [line.split()[0] for line in lines if "@" in line]
    assert names[0] == "uplink@node-40"
    assert [line for line in lines if "uplink@node-41 " in line and "no critical Pod" in line]
    assert names.index("uplink@node-99") < names.index("uplink@node-41")
    status.add("definition", Definition("uplink@node-41", 2, DefinitionSource(), domain), 1.0)
    assert "2 blind" in render(status, (160, 120))


def test_definitions_leave_room_for_the_worst_instances() -> None:
    """With more definitions than lines, those without trouble are left out before the worst instance is."""
    status = fill_fleet(4, broken=(2,))
    for name in list(status.domains):
        for number in range(40):
            status.domains[f"d{number}{name}"] = replace(status.domains[name], name=f"d{number}{name}")
    text = render(status, (120, 24))
    assert len(text.splitlines()) <= 24
    assert "uplink@node-2" in text


def test_a_filter_narrows_the_definitions_too() -> None:
    """What is counted is what passes the filter."""
    status = fill_fleet(200, broken=(7,))
    screen = StringIO()
    table = build_table(status, 1.0, (120, 30), None, LiveView(filter="node-1"))
    TerminalConsole(width=120, height=30, file=screen).print(table)
    assert "111 within their SLOs" in screen.getvalue()
