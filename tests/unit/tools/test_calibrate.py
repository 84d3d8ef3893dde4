"""Calibration against recordings of a simulated link whose truth is known."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from msgspec import Raw
from msgspec.structs import replace

from schemas.config import Config
from schemas.definition import Definition, DefinitionSource
from schemas.domain import Domain
from schemas.messages import CriticalMeasure, Sample, TargetMeasure, encode
from schemas.units import MAX_KBIT, Rate
from services.cli import main
from services.control import Controller
from services.plant.scenario import Event, Scenario
from services.plant.simulated.closed_loop import Delays, Run, play
from services.plant.simulated.plant import Parameters
from services.plant.simulated.probes import Noise, Pause
from services.plant.simulated.signal_profiles import PROFILES
from services.plant.topology import SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp
from services.tools.calibrate.calibration import calibrate
from services.tools.calibrate.guide import describe_progress
from services.tools.calibrate.proposal import Figure, Proposal, apply_proposal
from services.tools.calibrate.readings import DomainReadings, Readings
from services.tools.common.recording import RecordedMessage, build_message
from tests.support.bus_stream import BEGIN, PERIOD, config, decision_line, record, sample_line

DOMAIN = Scenario(name="case", text="A case.", seconds=1).domain()
GOLDEN = Path(__file__).parents[2] / "golden"


def recorded(
    policy: str = "proportional",
    seconds: float = 60,
    scale: float = 1.0,
    signals: str = "meter",
    **changes: Any,
) -> Run:
    """A run on ``scale`` times 100 Mbit/s; ``changes`` are of the domain, but for ``events``, ``apps``, ``noise``."""
    events, apps, noise = changes.pop("events", ()), changes.pop("apps", Apps()), changes.pop("noise", Noise())
    scenario = Scenario(name="case", text="A case.", seconds=seconds, events=events, apps=apps).scale(scale)
    domain = replace(scenario.domain(policy), **changes)
    delays = Delays.of(PROFILES[signals])
    return play(scenario, domain, Controller(domain), delays=delays, seed=3, parameters=Parameters(noise=noise))


def readings_of(run: Run, *, decisions: bool = True) -> DomainReadings:
    """What calibration reads of a run."""
    readings = DomainReadings(run.domain)
    for sample, decision in zip(run.samples, run.decisions, strict=True):
        readings.add_sample(sample)
        if decisions:
            readings.add_decision(decision)
    return readings


def figure(proposal: Proposal, setting: str, key: str = "") -> Figure:
    """One figure of a proposal."""
    return next(one for one in proposal.figures if one.setting == setting and key in one.key)


def lines_of(run: Run) -> Iterator[RecordedMessage]:
    """A run as it is on the bus."""
    for seq, (sample, decision) in enumerate(zip(run.samples, run.decisions, strict=True), 1):
        yield sample_line(sample, seq)
        yield decision_line(decision, seq, seq, sample.id)


@pytest.mark.parametrize(("scale", "policy"), [(0.6, "proportional"), (1.0, "learned"), (4.0, "aimd")])
def test_the_capacity_of_a_link_that_was_full_now_and_then(scale: float, policy: str) -> None:
    """It is known to 1 %, and the evidence names the seconds in which the true latency rose."""
    run = recorded(policy, 90, scale)
    proposal = calibrate(readings_of(run))
    capacity = figure(proposal, "capacity")
    assert int(capacity.value or 0) == pytest.approx(scale * 100_000, rel=0.01)
    assert (capacity.bound, capacity.confidence) != ("at least", "none")
    assert capacity.spans
    for span in capacity.spans:
        near = [
            one.critical[SCANNER].p95 or 0.0
            for one in run.seconds
            if span.begin - 1 <= (one.start - proposal.begin) / 1e9 <= span.end
        ]
        assert max(near) > 2 * (run.seconds[3].critical[SCANNER].p95 or 1)


def test_limits_leave_room_for_the_highest_critical_load() -> None:
    """The fail-safe limit is safe at the load that was seen, and the maximum reaches what a quiet link has."""
    events = (Event(at=30.2, loads={SCANNER: 50_000}), Event(at=40.7, loads={SCANNER: 25_000}))
    run = recorded(seconds=75, events=events)
    proposal = calibrate(readings_of(run))
    worst = run.scenario.apps.with_loads({SCANNER: 50_000}).safe_budget()
    quiet = run.scenario.apps.safe_budget()
    safe, most = figure(proposal, "fail_safe"), figure(proposal, "max")
    assert 0.8 * worst <= int(safe.value or 0) <= worst
    assert any(30 <= span.end <= 42 for span in safe.spans)
    assert int(most.value or 0) == pytest.approx(quiet, rel=0.05)
    assert safe.confidence == "low", "75 seconds tell little of a day"
    assert "in these 76 s" in safe.why
    tuned = apply_proposal(run.domain, proposal)
    assert (tuned.targets[0].fail_safe, tuned.targets[0].max) == (safe.value, most.value)
    assert (run.domain.targets[0].fail_safe, run.domain.capacity) == (40_000, 100_000), "nothing was applied"


def test_a_link_that_was_never_full_has_at_least_what_it_carried() -> None:
    """The bound is not put into use: it would keep limits low for nothing."""
    run = recorded("static", 45, parameters={"share": 0.2}, capacity=None)
    proposal = calibrate(readings_of(run))
    capacity = figure(proposal, "capacity")
    assert (capacity.bound, capacity.confidence) == ("at least", "low")
    assert 45_000 <= int(capacity.value or 0) <= 55_000
    assert "the link was never full" in capacity.why
    assert figure(proposal, "max").value is None
    assert apply_proposal(run.domain, proposal).capacity is None
    assert "what a queue does to it was never seen" in figure(proposal, "p95", "scanner").why
    readings = Readings((run.domain,))
    for line in lines_of(run):
        readings.add(line)
    assert "let best effort send more" in describe_progress(readings)


def test_a_link_that_was_always_full_tells_its_capacity_alone() -> None:
    """Nobody controlled it: nothing is known of latency without a queue, nor of what anybody wanted to send."""
    targets = tuple(replace(one, min=one.max, fail_safe=one.max) for one in DOMAIN.targets)
    run = recorded("static", 60, targets=targets, capacity=None)
    proposal = calibrate(readings_of(run))
    capacity = figure(proposal, "capacity")
    assert int(capacity.value or 0) == pytest.approx(100_000, rel=0.01)
    assert "the link was full all the time" in capacity.why
    others = [one for one in proposal.figures if one is not capacity]
    assert {one.confidence for one in others} == {"none"}
    assert apply_proposal(run.domain, proposal) == replace(run.domain, capacity=capacity.value)


def test_a_link_that_shrinks_gives_the_fail_safe_limit_of_its_least() -> None:
    """Queues at half the load are named, and confidence falls."""
    events = (Event(at=40.3, capacity=60_000), Event(at=70.3, capacity=100_000))
    proposal = calibrate(readings_of(recorded("aimd", 110, events=events)))
    capacity = figure(proposal, "capacity")
    assert int(capacity.value or 0) == pytest.approx(100_000, rel=0.02)
    (note,) = (one for one in proposal.notes if "at a lower load" in one)
    assert "a link that was smaller then" in note
    assert int(figure(proposal, "fail_safe").value or 0) <= 60_000 - 28_000


def test_a_single_host_that_stalls_is_no_queue() -> None:
    """A shared link raises all latencies; this host's objective has room for its stalls, with little confidence."""
    pauses = tuple(Pause(start, 0.4, 0.005, SCANNER) for start in range(3, 45, 4))
    run = recorded("static", 45, parameters={"share": 0.2}, noise=Noise(pauses=pauses))
    proposal = calibrate(readings_of(run))
    assert figure(proposal, "capacity").bound == "at least"
    stalled, steady = figure(proposal, "p95", "scanner"), figure(proposal, "p95", "robot")
    assert (stalled.value or 0) > 5_000_000 > (steady.value or 0)
    assert (stalled.confidence, steady.confidence) != ("high", "none")
    assert "its host stalls" in stalled.why


def test_objectives_lie_between_the_usual_latency_and_a_queue() -> None:
    """By the ground truth: seconds without a queue keep them, and seconds with a full one do not."""
    run = recorded("aimd", 60)
    proposal = calibrate(readings_of(run))
    objective = (figure(proposal, "p95", "scanner").value or 0) / 1e9
    usual = sorted(one.critical[SCANNER].p95 or 1.0 for one in run.seconds)
    assert usual[len(usual) // 2] < objective < usual[-1]


@pytest.mark.parametrize(
    ("signals", "missing"),
    [
        ("no-meter", "throughput was not measured: that of the critical workloads"),
        ("no-probes", "no sample has data"),
    ],
)
def test_what_is_not_measured_is_not_guessed(signals: str, missing: str) -> None:
    """Without throughput there are objectives alone; without latency nothing."""
    run = recorded(seconds=30, signals=signals)
    proposal = calibrate(readings_of(run))
    capacity = figure(proposal, "capacity")
    assert (capacity.value, capacity.confidence, capacity.why) == (None, "none", missing)
    rates = [one for one in proposal.figures if one.setting in ("max", "fail_safe")]
    assert all(one.value is None for one in rates)
    assert apply_proposal(run.domain, proposal).targets == run.domain.targets


def test_a_slow_source_gives_a_bound_only() -> None:
    """Windows of a minute blur every queue, and the proposal says so."""
    proposal = calibrate(readings_of(recorded(seconds=200, signals="prometheus-15s")))
    capacity = figure(proposal, "capacity")
    assert (capacity.bound, capacity.confidence) == ("at least", "low")
    assert int(capacity.value or 0) <= 100_000
    assert any("whole windows only" in one for one in proposal.notes)


def test_targets_with_little_to_send_and_limits_per_pod() -> None:
    """A target that leaves its limit idle gets twice what it sent; a limit per pod is that of one pod."""
    apps = Apps(targets=(TargetApp(TELEMETRY, replicas=2), TargetApp("factory/erp", load=2_000, flows=1)))
    domain = Scenario(name="case", text="A case.", seconds=1, apps=apps).domain()
    greedy, modest = domain.targets
    greedy = replace(greedy, scope="per-pod", max=Rate(50_000), fail_safe=Rate(15_000))
    run = recorded(seconds=60, apps=apps, targets=(greedy, replace(modest, max=Rate(20_000))))
    proposal = calibrate(readings_of(run))
    assert 3_000 <= int(figure(proposal, "max", "erp").value or 0) <= 5_500
    assert int(figure(proposal, "max", "telemetry").value or 0) == pytest.approx(70_000 / 2, rel=0.1)
    # How many pods there were is not always known.
    blind = DomainReadings(run.domain)
    for sample in run.samples:
        blind.add_sample(replace(sample, targets=tuple(replace(one, pods=None) for one in sample.targets)))
    assert "how many pods" in figure(calibrate(blind), "max", "telemetry").why


def test_a_target_whose_limits_were_not_recorded_may_want_more() -> None:
    """As in a recording from Prometheus."""
    most = figure(calibrate(readings_of(recorded(seconds=45), decisions=False)), "max")
    assert most.confidence == "low"
    assert "no limits were recorded" in most.why


def test_numbers_that_no_link_has() -> None:
    """Rates stay within what can be configured, whatever a sampler reports."""
    domain = config().domains[0]
    readings = DomainReadings(domain)
    for step in range(1, 60):
        end = BEGIN + step * PERIOD
        latency = (0.2 if step % 7 == 0 else 1e-9) * step
        critical = (
            CriticalMeasure(domain.critical[0].key, latency, latency, 500, throughput=10**18, recent_p50=latency),
        )
        targets = tuple(TargetMeasure(one.key, 10**18, 10**18, 10**9) for one in domain.targets)
        readings.add_sample(Sample(domain.name, end - 4 * PERIOD, end, PERIOD, "test", critical, targets))
        readings.add_sample(Sample(domain.name, end - 4 * PERIOD, end - 1, PERIOD, "test", critical, targets))
    assert readings.samples == 59, "a sample from the past is left out"
    proposal = calibrate(readings)
    assert all(1 <= one.value <= MAX_KBIT for one in proposal.figures if isinstance(one.value, Rate))
    apply_proposal(domain, proposal)


def test_a_definition_of_other_workloads_begins_anew() -> None:
    """Domains may come from the bus alone; their last definition counts."""
    run = recorded(seconds=20)
    other = replace(run.domain, targets=(replace(run.domain.targets[0], deployment="other"),))

    def define(domain: Domain, revision: int) -> RecordedMessage:
        definition = Definition(domain.name, revision, DefinitionSource(), domain)
        return build_message("definition", "sluice.definition.v1.floor", revision, BEGIN, {}, encode(definition))

    readings = Readings(())
    for line in [*lines_of(run)][:3]:
        readings.add(line)
    assert readings.unknown == {"floor"}
    readings.add(define(run.domain, 1))
    for line in lines_of(run):
        readings.add(line)
    assert readings.by_name["floor"].samples == len(run.samples)
    readings.add(define(replace(run.domain, min_observations=50), 2))
    assert readings.by_name["floor"].samples == len(run.samples)
    readings.add(define(other, 3))
    assert readings.by_name["floor"].samples == 0
    readings.add(RecordedMessage("sample", "s", 1, BEGIN, body=Raw(b"[]")))
    assert readings.unreadable == 1


def test_check_accepts_what_is_proposed(tmp_path: Path) -> None:
    """As a configuration and as resources, on a recording of real packets; JSON has every figure."""
    file = str(GOLDEN / "factory-learned.jsonl.zst")
    for form in ("--yaml", "--resources"):
        printed = CliRunner().invoke(main, ["calibrate", file, form])
        assert printed.exit_code == 0, printed.output
        path = tmp_path / "proposed.yaml"
        path.write_text(printed.stdout, encoding="utf-8")
        checked = CliRunner().invoke(main, ["check", str(path), "--offline", "--json"])
        assert checked.exit_code == 0, checked.output
        (domain,) = json.loads(checked.stdout)["config"]["domains"]
        assert 97 <= float(domain["capacity"].rstrip("Mk")) / (1000 if domain["capacity"][-1] == "k" else 1) <= 101
        assert printed.stdout.startswith("# Proposed by sluice calibrate. Nothing is applied")
    (proposal,) = json.loads(CliRunner().invoke(main, ["calibrate", file, "--json"]).stdout)
    capacity = proposal["figures"][0]
    assert (capacity["setting"], capacity["confidence"]) == ("capacity", "medium")
    assert capacity["spans"]
    assert capacity["facts"]["episodes"] == len(capacity["spans"])
    shown = CliRunner().invoke(main, ["calibrate", file])
    assert "the link was full 2 times" in shown.output


def test_a_recording_without_a_sample_proposes_nothing(tmp_path: Path) -> None:
    """The exit code says so, and the domain stays as it is configured."""
    path = record(tmp_path / "empty.rec", config(), iter(()))
    done = CliRunner().invoke(main, ["calibrate", str(path)])
    assert done.exit_code == 1
    assert "there is no sample" in done.output
    printed = CliRunner().invoke(main, ["calibrate", str(path), "--yaml"])
    written = yaml.safe_load(printed.stdout)
    assert [one["deployment"] for one in written["domains"][0]["targets"]] == ["telemetry-upload", "erp-dashboard"]


def recorded_samples(path: Path, samples: Iterable[Sample]) -> Path:
    """A recording of samples alone."""
    return record(path, Config((DOMAIN,)), (sample_line(sample, seq) for seq, sample in enumerate(samples, 1)))


def change(sample: Sample, critical: dict[str, Any], changes: dict[str, Any]) -> Sample:
    """A sample of which each critical measure, and then the whole, is changed."""
    measures = tuple(replace(one, **critical) for one in sample.critical)
    return replace(sample, **({"critical": measures} | changes))


@pytest.mark.parametrize(
    ("critical", "changes", "why", "is_known"),
    [
        ({}, {"no_data": "no page"}, "no sample has data", False),
        ({"missing": "gone"}, {}, "no sample has data", False),
        ({}, {"critical": ()}, "no sample has data", False),
        ({"throughput": 0, "recent": 0}, {}, "without a queue", True),
        ({"throughput": None, "recent": None}, {}, "throughput was not measured: that of the critical workloads", True),
        ({"p95": 1e9, "jitter": 1e9}, {"targets": ()}, "no link delays by that much", False),
    ],
    ids=["nothing", "no latency", "no workload", "no critical traffic", "no throughput", "absurd latency"],
)
def test_a_strange_recording_says_what_is_missing(
    tmp_path: Path, critical: dict[str, Any], changes: dict[str, Any], why: str, is_known: bool
) -> None:
    """In every form, without a traceback; the exit code says whether anything was proposed."""
    samples = [change(one, critical, changes) for one in recorded(seconds=20).samples]
    path = str(recorded_samples(tmp_path / "odd.rec", samples))
    done = {form: CliRunner().invoke(main, ["calibrate", path, *form]) for form in ((), ("--json",), ("--yaml",))}
    assert [one.exit_code for one in done.values()] == [0 if is_known else 1] * 3, done[()].output
    assert why in " ".join(done[()].output.split())


@pytest.mark.parametrize("chosen", [slice(5, 6), slice(5, 7), slice(None, None, -1)], ids=["one", "two", "backwards"])
def test_too_few_samples_propose_nothing(tmp_path: Path, chosen: slice) -> None:
    """The least limit is kept as it is configured: that is no proposal."""
    path = recorded_samples(tmp_path / "few.rec", recorded(seconds=20).samples[chosen])
    done = CliRunner().invoke(main, ["calibrate", str(path)])
    assert done.exit_code == 1, done.output
    assert "windows without a queue, 20 needed" in done.output


def test_names_cannot_leave_their_comment(tmp_path: Path) -> None:
    """A reason from the bus stays on its line."""
    domain = replace(config().domains[0], name="a\nb: c")
    path = record(tmp_path / "odd.rec", Config((domain,)), iter(()))
    printed = CliRunner().invoke(main, ["calibrate", str(path), "--yaml"])
    assert [one["name"] for one in yaml.safe_load(printed.stdout)["domains"]] == ["a\nb: c"]
