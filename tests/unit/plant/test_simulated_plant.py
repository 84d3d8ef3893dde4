"""The simulated plant: the cliff, the starved scanner, draining, limiters, and its own seconds."""

from itertools import pairwise

import pytest

from services.plant.interface import Plant, Second
from services.plant.simulated.plant import Parameters, SimulatedPlant
from services.plant.topology import ERP, ROBOT, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

S = 10**9
POD = "telemetry-upload-0"


def at_limit(kbit: int | None, seconds: int = 8, **parameters: object) -> list[Second]:
    """Seconds of a plant that had one limit from the start."""
    apps = Apps(targets=(TargetApp(TELEMETRY, limit=kbit),))
    model = SimulatedPlant(Parameters(apps=apps, **parameters), seed=2)  # type: ignore[arg-type]
    model.advance(seconds * S)
    return list(model.take_seconds())


def test_implements_the_plant() -> None:
    """The type checker verifies that the model is a plant; so does this test."""
    plant: Plant = SimulatedPlant()
    assert [pod.name for pod in plant.pods] == [POD]


def test_below_the_knee_nothing_is_wrong_and_above_it_everything() -> None:
    """One per cent below the analytic limit P95 stays under 2 ms; two per cent above it exceeds 10 ms."""
    knee = Apps().safe_budget()
    calm = at_limit(knee * 99 // 100)
    assert max(second.critical[ROBOT].p95 or 1 for second in calm) < 0.002
    assert sum(second.critical[ROBOT].lost for second in calm) == 0
    wild = at_limit(knee * 102 // 100)
    assert (wild[-1].critical[ROBOT].p95 or 0) > 0.010


def test_an_unlimited_target_fills_the_queue_and_crushes_the_scanner() -> None:
    """Latency is near the FIFO's 100 ms; the paced TCP stream gets far less than it offers."""
    seconds = at_limit(None, seconds=30)[8:]
    assert sum(second.critical[ROBOT].p95 or 0 for second in seconds) / len(seconds) > 0.08
    throughput = sum(second.critical[SCANNER].throughput for second in seconds) / len(seconds)
    assert 5_000 < throughput < 23_000


def test_a_deep_cut_drains_the_queue_faster_than_a_shallow_one() -> None:
    """The time from the cut until probes are below 2 ms is backlog over free capacity."""
    drains = {}
    for cut in (60_000, 20_000):
        model = SimulatedPlant(seed=4)
        model.advance(20 * S)
        model.set_limit(POD, cut)
        model.take_crossings()
        spent = 0
        while model._queue / model._rate > 0.002:
            model.advance(S // 200)
            spent += 5
        drains[cut] = spent
    assert 50 <= drains[20_000] <= 250
    assert 250 <= drains[60_000] <= 1200


def test_goodput_is_the_limit_less_headers() -> None:
    """Ethernet, IP and TCP headers take 4.4 % of a limit that counts bytes on the wire."""
    seconds = at_limit(40_000)[2:]
    goodput = sum(second.goodput[TELEMETRY] for second in seconds) / len(seconds)
    assert goodput == pytest.approx(40_000 * 1448 / 1514, rel=0.01)


def test_a_pod_ignores_limits_until_it_has_one() -> None:
    """Every replica has a limit of its own, and none at first."""
    model = SimulatedPlant(Parameters(apps=Apps(targets=(TargetApp(TELEMETRY, replicas=2),))), seed=1)
    assert model.limits == {"telemetry-upload-0": None, "telemetry-upload-1": None}
    model.set_limit("telemetry-upload-1", 9_000)
    assert model.limits == {"telemetry-upload-0": None, "telemetry-upload-1": 9_000}
    with pytest.raises(KeyError):
        model.set_limit("telemetry-upload-2", 1)


def test_unknown_workloads_have_no_load() -> None:
    """A scenario that names an unknown workload gets an error."""
    with pytest.raises(KeyError, match="erp"):
        SimulatedPlant().set_load(ERP, 1)


def test_a_forgiving_limiter_lets_the_old_backlog_out_beside_the_new_rate() -> None:
    """Cilium changes a limit this way: for a short time more leaves than either limit allows."""
    sent = {}
    for forgiving in (False, True):
        model = SimulatedPlant(
            Parameters(apps=Apps(targets=(TargetApp(TELEMETRY, limit=50_000),)), forgiving=forgiving), seed=1
        )
        model.advance(3 * S)
        before = model.read_counters().sent[POD]
        model.set_limit(POD, 40_000)
        model.advance(S // 50)
        sent[forgiving] = model.read_counters().sent[POD] - before
    assert sent[True] > sent[False] + 15_000


def test_a_second_target_joins_and_leaves() -> None:
    """A load of zero is silence; a greedy flow starts and ends on request."""
    apps = Apps(targets=(TargetApp(TELEMETRY, limit=20_000), TargetApp(ERP, load=0, limit=20_000)))
    model = SimulatedPlant(Parameters(apps=apps), seed=1)
    goodput = []
    for load in (0, None, 0):
        model.set_load(ERP, load)
        model.advance(4 * S)
        goodput.append(model.take_seconds()[-1].goodput[ERP])
    assert goodput[0] == goodput[2] == 0
    assert goodput[1] > 18_000


def test_seconds_are_whole_and_out_of_step_with_round_time() -> None:
    """The truth's bins follow each other without a gap, and do not start at the samples' times."""
    model = SimulatedPlant(seed=1, start=1_700_000_000 * S)
    for _ in range(23):
        model.advance(S // 4 + 1_000_003)
    starts = [second.start for second in model.take_seconds()]
    assert len(starts) == 5
    assert all(later - earlier == S for earlier, later in pairwise(starts))
    assert all(start % (S // 4) != 0 for start in starts)
    assert not model.take_seconds()


def test_latency_shows_on_the_counters_only_once_the_round_trip_is_over() -> None:
    """With a standing queue of 100 ms the exporter lags behind by that much."""
    model = SimulatedPlant(seed=1)
    model.advance(30 * S)
    counted = model.read_counters().latency[ROBOT].counts[-1]
    sent = 30 * 250
    assert sent - 30 < counted < sent - 10
    assert model._probed[0].waiting == pytest.approx(sent - counted, abs=3)
