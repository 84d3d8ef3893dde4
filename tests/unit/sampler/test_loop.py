"""The sampler's loop on a clock that the test controls: stalls, jumps and failures."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from schemas.config import Config, Signal
from schemas.domain import Critical, Domain, Target
from schemas.messages import Sample
from schemas.units import Duration, Rate
from services.runtime.health import Health
from services.sampler.loop import Sampler
from services.sampler.source import LatencyStats, Measurements, NoData
from tests.support.attack_tally import Attacks

MS = 10**6
PERIOD = 500 * MS
START = 1_000_000 * MS
ROBOT, CAMERA = "default/robot", "default/camera"


def domain(name: str, workload: str) -> Domain:
    """One critical workload and one target."""
    target = Target(deployment=f"upload-{name}", min=Rate(1), max=Rate(10), fail_safe=Rate(5))
    return Domain(name=name, critical=(Critical(workload=workload),), targets=(target,))


CONFIG = Config(
    domains=(domain("press", "robot"), domain("paint", "camera")),
    signal=Signal(period=Duration(PERIOD), window=Duration(4 * PERIOD)),
)


class ManualClock:
    """A clock that advances only by sleeping or when a test sets it; planned events happen on the way."""

    def __init__(self) -> None:
        """Start between two windows."""
        self.time = START + 123 * MS
        self.plans: list[tuple[int, Callable[[], None]]] = []

    def now(self) -> int:
        """UTC ns."""
        return self.time

    async def sleep(self, duration: int) -> None:
        """Let time pass, and let other tasks run."""
        self.time += duration
        due = [plan for plan in self.plans if plan[0] <= self.time]
        self.plans = [plan for plan in self.plans if plan[0] > self.time]
        for _, act in due:
            act()
        await asyncio.sleep(0)

    def set(self, time: int) -> None:
        """Set the clock, as an administrator would."""
        self.time = time


class ManualSource:
    """Returns the figures that the test sets, after the delay that the test sets."""

    def __init__(self, clock: ManualClock) -> None:
        """Succeed without delay."""
        self.clock = clock
        self.takes = 5 * MS
        self.observations = 400
        self.failure: str | None = None
        self.lost: float | None = None
        self.blind_to: str | None = None
        self.asked: list[int] = []

    async def measure(self, end: int) -> Measurements:
        """Wait for the delay, then answer.

        Raises:
            NoData: when it has a reason.
        """
        self.asked.append(end)
        await self.clock.sleep(self.takes)
        if self.failure is not None:
            raise NoData(self.failure)
        found = LatencyStats(jitter=0.001, p95=0.0015, observations=self.observations, lost=self.lost)
        latency = {ROBOT: found, CAMERA: found}
        if self.blind_to is not None:
            latency[self.blind_to] = LatencyStats(lost=self.lost, missing="stale")
        return Measurements(end - 4 * PERIOD, latency, {})


class Rig:
    """A sampler whose dependencies the test controls."""

    def __init__(self) -> None:
        """Prepare; ``run`` starts the sampler."""
        self.clock = ManualClock()
        self.source = ManualSource(self.clock)
        self.health = Health()
        self.uncritical: frozenset[str] = frozenset()
        """Domains without a critical Pod."""
        self.samples: list[Sample] = []
        self.after: list[tuple[str, int]] = []
        """Each domain whose sample was published, and the delay after its window's end, ns."""
        self._enough = asyncio.Event()
        self._count = 0

    def _put(self, sample: Sample) -> None:
        self.samples.append(sample)
        self.after.append((sample.domain, self.clock.time - sample.end))
        if len(self.samples) >= self._count:
            self._enough.set()

    async def _sleep(self, seconds: float) -> None:
        await self.clock.sleep(round(seconds * 1e9))

    async def run(self, windows: int) -> list[int]:
        """Run for so many windows; return the ends of the first domain's samples."""
        self._count = windows * len(CONFIG.domains)
        sampler = Sampler(CONFIG, self.source.measure, self._put, self.health, self.clock.now, self._sleep)
        sampler.is_without_critical = self.uncritical.__contains__
        running = asyncio.create_task(sampler.run())
        await self._enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return [sample.end for sample in self.samples if sample.domain == "press"][:windows]


def ends(first: int, count: int) -> list[int]:
    """Window ends, one period after another."""
    return [START + (first + number) * PERIOD for number in range(count)]


def read_skipped() -> float:
    """The metric of skipped windows."""
    return REGISTRY.get_sample_value("sluice_sampler_skipped_windows_total") or 0.0


async def test_every_window_gives_one_sample_per_domain() -> None:
    """Ends are whole periods; the very first window is not published."""
    rig = Rig()
    before = read_skipped()
    assert await rig.run(5) == ends(2, 5)
    assert read_skipped() == before
    assert rig.source.asked[0] == START + PERIOD
    assert [sample.domain for sample in rig.samples[:4]] == ["press", "paint", "press", "paint"]
    assert {sample.source for sample in rig.samples} == {"scrape"}
    assert rig.health.problems == {}


async def test_where_no_critical_pod_is_being_blind_is_no_fault() -> None:
    """The sampler is ready all the same, and such windows count apart from those of a domain that is really blind."""

    def count(domain: str, outcome: str) -> float:
        labels = {"domain": domain, "outcome": outcome}
        return REGISTRY.get_sample_value("sluice_sampler_samples_total", labels) or 0.0

    rig = Rig()
    rig.source.observations = 0
    rig.uncritical = frozenset({"press"})
    before = [count("press", "uncritical"), count("press", "blind"), count("paint", "blind")]
    await rig.run(3)
    assert list(rig.health.problems) == ["domain paint"]
    after = [count("press", "uncritical"), count("press", "blind"), count("paint", "blind")]
    assert after[0] - before[0] >= 3
    assert after[1] == before[1]
    assert after[2] - before[2] >= 3


async def test_a_slow_source_leaves_windows_out_and_never_bursts() -> None:
    """With a measurement of 1.2 s, every third window is sampled, on time."""
    rig = Rig()
    rig.source.takes = 1200 * MS
    before = read_skipped()
    assert await rig.run(3) == [START + (4 + 3 * number) * PERIOD for number in range(3)]
    assert read_skipped() - before == 6
    assert rig.source.asked == sorted(set(rig.source.asked))


async def test_a_stalled_process_goes_on_with_the_next_window() -> None:
    """After a sleep of a minute there is one sample, not a hundred and twenty."""
    rig = Rig()
    rig.clock.plans = [(START + 3 * PERIOD, lambda: rig.clock.set(START + 60_000 * MS + 100 * MS))]
    found = await rig.run(4)
    assert found == [START + 2 * PERIOD, *(START + 60_000 * MS + number * PERIOD for number in (1, 2, 3))]


async def test_a_small_delay_is_still_the_same_window() -> None:
    """Waking up slightly late is normal."""
    rig = Rig()
    rig.clock.plans = [(START + 3 * PERIOD, lambda: rig.clock.set(START + 3 * PERIOD + 200 * MS))]
    assert await rig.run(4) == ends(2, 4)


async def test_a_clock_that_is_set_back_is_awaited_and_reported() -> None:
    """No window end repeats or goes back; /readyz shows what the sampler waits for."""
    rig = Rig()
    seen: list[dict[str, str]] = []
    rig.clock.plans = [
        (START + 4 * PERIOD, lambda: rig.clock.set(START + 4 * PERIOD - 10_000 * MS)),
        (START + 3 * PERIOD + 1, lambda: None),
    ]
    original = rig.clock.sleep

    async def watched(duration: int) -> None:
        await original(duration)
        seen.append(rig.health.problems)

    rig.clock.sleep = watched  # type: ignore[method-assign]
    found = await rig.run(6)
    assert found == sorted(set(found))
    assert found[:2] == ends(2, 2)
    assert any("set back" in wrong.get("clock", "") for wrong in seen)
    assert "clock" not in rig.health.problems


async def test_a_clock_that_leaps_ahead_and_back_silences_nothing(attacks: Attacks) -> None:
    """One hour ahead for two seconds: soon after it is put right, every window is sampled again."""
    rig = Rig()
    hour = 3600_000 * MS
    rig.clock.plans = [
        (START + 4 * PERIOD, lambda: rig.clock.set(rig.clock.now() + hour)),
        (START + hour + 4 * PERIOD + 2000 * MS, lambda: rig.clock.set(rig.clock.now() - hour)),
    ]
    found = await rig.run(20)
    after = [end for end in found if START + 4 * PERIOD < end < START + hour]
    assert len(after) > 8
    assert after == list(range(after[0], after[-1] + 1, PERIOD))
    assert after[0] <= START + 4 * PERIOD + 2000 * MS + 8 * PERIOD
    assert "clock" not in rig.health.problems
    attacks.add("clocks one hour off", "1 leaps", safe_s=(after[0] - START - 4 * PERIOD) / 1e9 - 2)


async def test_a_source_without_data_makes_samples_with_the_reason() -> None:
    """Every domain gets one, with the reason; /readyz has it too; recovery clears both."""
    rig = Rig()
    rig.source.failure = "connection refused"
    await rig.run(1)
    assert [sample.no_data for sample in rig.samples[:2]] == ["connection refused"] * 2
    assert rig.samples[0].start == rig.samples[0].end - 4 * PERIOD
    assert rig.health.problems == {
        "source": "connection refused",
        "domain press": "connection refused",
        "domain paint": "connection refused",
    }


async def test_uninformative_samples_are_published_late() -> None:
    """They wait half a period: a sampler with more data comes first, and no other domain waits."""
    rig = Rig()
    rig.source.blind_to = ROBOT
    await rig.run(2)
    assert rig.after == [("paint", 5 * MS), ("press", PERIOD // 2)] * 2
    rig = Rig()
    rig.source.failure = "connection refused"
    await rig.run(1)
    assert rig.after == [("press", PERIOD // 2), ("paint", PERIOD // 2)]
    rig = Rig()
    rig.source.takes = 300 * MS
    rig.source.observations = 12
    await rig.run(1)
    assert rig.after == [("press", 300 * MS), ("paint", 300 * MS)]


async def test_a_loss_is_published_at_once() -> None:
    """A loss is reported even without a latency."""
    rig = Rig()
    rig.source.blind_to, rig.source.lost = ROBOT, 2.0
    await rig.run(1)
    assert rig.after == [("press", 5 * MS), ("paint", 5 * MS)]


async def test_a_clock_set_back_while_a_sample_waits_holds_nothing_up() -> None:
    """The sample is published after half a period, whatever the clock."""
    rig = Rig()
    rig.source.failure = "connection refused"
    rig.source.takes = 0
    jump = 10_000 * MS
    original = rig.source.measure

    async def measured(end: int) -> Measurements:
        if len(rig.source.asked) == 1:
            rig.clock.set(rig.clock.time - jump)
        return await original(end)

    rig.source.measure = measured  # type: ignore[method-assign]
    await rig.run(1)
    assert rig.after[0] == ("press", PERIOD // 2 - jump)


async def test_blindness_shows_on_readyz_with_its_number() -> None:
    """The sample has the figures and the number; the condition names what is missing."""
    rig = Rig()
    rig.source.observations = 12
    await rig.run(1)
    assert rig.samples[0].critical[0].observations == 12
    assert rig.health.problems["domain press"] == "default/robot: blind: 12 observations, 100 needed"
    assert "source" not in rig.health.problems


async def test_a_domain_that_has_not_been_sampled_is_not_ready() -> None:
    """The service is ready only when every domain has data."""
    rig = Rig()
    Sampler(CONFIG, rig.source.measure, rig.samples.append, rig.health)
    assert rig.health.problems == {"domain press": "not yet", "domain paint": "not yet"}
