"""Replicas of the decision service under every order of events: the decisions are those of one that never fails.

The bus is a model with the guarantees of the real one (at-least-once delivery, compare-and-set).  It
pauses before and after every effect, so that Hypothesis can run another replica, redeliver,
or kill at that point.  ``tests/integration`` does the same to real processes on a real server.
"""

from collections import Counter
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.domain import Critical, Domain, Target
from schemas.messages import CriticalMeasure, Decision, Sample, decode, encode
from schemas.units import Rate
from services.bus.bus import Conflict, Received
from services.bus.consumer import PullState
from services.bus.envelope import Delivery, RawMessage
from services.common.backoff import BackOff
from services.control import Controller
from services.decision import domain_worker
from services.decision.domain_log import Enforcement
from services.decision.domain_worker import DomainPosition, DomainWorker, TimedPolicy
from tests.support.decision_services import replay_samples

S = 10**9
NOW = 1_790_000_000 * S
REPLICAS = 3
DOMAIN = Domain(
    "line", (Critical("robot"),), (Target(deployment="upload", min=Rate(1000), max=Rate(9000), fail_safe=Rate(2000)),)
)


@pytest.fixture(scope="module", autouse=True)
def policies_take_no_time() -> Iterator[None]:
    """No policy is found too slow, however busy the machine is: its fallback would decide otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain_worker, "TimedPolicy", partial(TimedPolicy, clock=lambda: 0.0))
        yield


def define(revision: int) -> tuple[Domain, int]:
    """A definition of the domain: bounds move and targets come and go."""
    low = 1000 * (1 + revision % 3)
    targets = [
        Target(deployment="upload", min=Rate(low), max=Rate(9000 - 1500 * (revision % 4)), fail_safe=Rate(low + 500))
    ]
    if revision % 5 == 2:
        targets.append(Target(deployment="backup", min=Rate(500), max=Rate(4000), fail_safe=Rate(1000)))
    return replace(DOMAIN, targets=tuple(targets)), revision


class Pause(Awaitable[None]):
    """Suspends the replica, so that the scheduler can run another one."""

    def __await__(self) -> Generator[None, None, None]:
        """Suspend once."""
        yield


@dataclass
class World:
    """One domain's streams, and the consumer that all replicas share."""

    samples: list[Received[Sample]]
    decisions: list[tuple[bytes, int]] = field(default_factory=list)
    """The message, and the sequence of the sample that it answers."""
    dead_letters: list[int] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    delivered: int = 0
    deliveries: int = 0
    defined: int = 0
    """Revision of the newest definition on the bus."""
    times: Counter[int] = field(default_factory=Counter)
    """How often each sample was delivered."""

    async def find_position(self) -> DomainPosition:
        """The decision log: read the position from the bus."""
        await Pause()
        if not self.decisions:
            floor = next(n for n in range(len(self.samples) + 1) if n + 1 not in self.acknowledged)
            found = DomainPosition(None, floor, 0)
        else:
            body, position = self.decisions[-1]
            last = decode(Decision, body)
            found = DomainPosition(last.state, position, len(self.decisions), last.definition)
        await Pause()
        return found

    async def find_definition(self) -> tuple[Domain, int] | None:
        """The decision log: read the newest definition from the bus."""
        await Pause()
        return define(self.defined) if self.defined else None

    async def write(self, decision: Decision, answered: Received[Sample], expected: int) -> int:
        """The follower's port: compare and set."""
        await Pause()
        if expected != len(self.decisions):
            raise Conflict("another decision is the last")
        self.decisions.append((encode(decision), answered.seq))
        seq = len(self.decisions)
        await Pause()
        return seq

    async def get_next(self, position: int) -> Received[Sample] | None:
        """The follower's port: the next sample."""
        await Pause()
        found = self.samples[position] if position < len(self.samples) else None
        await Pause()
        return found

    async def dead_letter(self, sample: Received[Sample], reason: str) -> None:
        """The follower's port: a dead letter."""
        await Pause()
        self.dead_letters.append(sample.seq)
        await Pause()


class Replica:
    """One process: a follower, and the samples that were delivered to it."""

    def __init__(self, world: World) -> None:
        """Start."""
        self._world = world
        self.crash()

    def crash(self) -> None:
        """Lose all state."""
        self._worker = DomainWorker(DOMAIN, self._world, self._world, Enforcement([DOMAIN]))
        self._pull = PullState(1000)
        self._waiting: list[Received[Sample]] = []
        self._taking: Coroutine[Any, Any, None] | None = None

    def hear(self, revision: int) -> None:
        """Hear of a definition; it may be in the middle of a step."""
        self._worker.define(*define(revision))

    def deliver(self, seq: int) -> None:
        """Deliver a sample, for the first time or again."""
        world = self._world
        world.deliveries += 1
        world.times[seq] += 1
        sample = world.samples[seq - 1]
        since = self._pull.record_delivery(Delivery(seq, world.times[seq], world.deliveries, sample.published))
        self._waiting.append(Received(sample.message, sample.raw, world.times[seq], since))

    def step(self) -> bool:
        """Continue to the next pause; return False if there is nothing to do."""
        if not self._waiting:
            return False
        if self._taking is None:
            self._taking = self._worker.answer_up_to(self._waiting[0])
        try:
            self._taking.send(None)
        except StopIteration:
            self._world.acknowledged.add(self._waiting.pop(0).seq)
            self._taking = None
        return True

    def stop(self) -> None:
        """Close the running coroutine."""
        if self._taking is not None:
            self._taking.close()


def receive(seq: int, end: int, published: int) -> Received[Sample]:
    """A stored sample, as it is received."""
    measure = CriticalMeasure("default/robot", 0.001, 0.0015 if seq % 3 else 0.005, 500)
    sample = Sample("line", end - 2 * S, end, S, "test", (measure,))
    return Received(sample, RawMessage("sluice.sample.v1.line", {}, encode(sample), seq, published))


@st.composite
def streams(draw: st.DrawFn) -> list[Received[Sample]]:
    """Samples in order, with repetitions, gaps, samples out of order and samples from the future."""
    made = []
    newest = 0
    for seq in range(1, draw(st.integers(1, 12)) + 1):
        kind = draw(st.sampled_from(["next"] * 6 + ["gap", "again", "old", "future"]))
        newest += {"next": 1, "gap": 7}.get(kind, 0)
        now = NOW + newest * S
        end = {"old": now - 2 * S, "future": now + 3600 * S}.get(kind, now)
        made.append(receive(seq, end, now))
    return made


ACTION = st.tuples(
    st.sampled_from(["step"] * 8 + ["new"] * 4 + ["again"] * 2 + ["crash", "define", "define", "hear", "hear"]),
    st.integers(0, REPLICAS - 1),
    st.integers(0, 100),
)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["step"] * 8 + ["new"] * 4 + ["again"] * 2 + ["crash"]),
        st.integers(0, REPLICAS - 1),
        st.integers(0, 100),
    ),
    max_size=120,
)


@pytest.fixture(autouse=True, scope="module")
def waits() -> Iterator[list[float]]:
    """Waits are pauses; gives how long they would have been."""
    waited: list[float] = []

    async def wait(back_off: BackOff) -> None:
        waited.append(back_off.next_s())
        await Pause()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BackOff, "wait", wait)
        yield waited


def play(samples: list[Received[Sample]], actions: list[tuple[str, int, int]]) -> World:
    """What becomes of samples and definitions while replicas do these things, and then finish."""
    world = World(samples)
    replicas = [Replica(world) for _ in range(REPLICAS)]
    for action, which, pick in actions:
        replica = replicas[which]
        if action == "step":
            replica.step()
        elif action == "define":
            world.defined += 1
        elif action == "hear" and world.defined:
            replica.hear(world.defined)
        elif action == "new" and world.delivered < len(samples):
            world.delivered += 1
            replica.deliver(world.delivered)
        elif action == "again" and (missing := list_unacknowledged(world)):
            replica.deliver(missing[pick % len(missing)])
        elif action == "crash":
            replica.stop()
            replica.crash()
    finish(world, replicas)
    return world


@settings(max_examples=300, deadline=None)
@given(streams(), ACTIONS)
def test_replicas_that_fail_decide_as_one_that_does_not(
    samples: list[Received[Sample]], actions: list[tuple[str, int, int]]
) -> None:
    """Each answerable sample is answered once, in order, with the same bytes."""
    world = play(samples, actions)
    wanted = replay_samples(DOMAIN, samples, [])
    assert [body for body, _ in world.decisions] == [encode(one) for one in wanted]
    answered = [seq for _, seq in world.decisions]
    assert answered == sorted(set(answered))
    assert set(world.dead_letters) == {one.seq for one in samples if one.message.end > one.published + DOMAIN.dead_man}


@settings(max_examples=200, deadline=None)
@given(streams(), st.lists(ACTION, max_size=120))
def test_replicas_hear_of_definitions_at_any_time_and_agree(
    samples: list[Received[Sample]], actions: list[tuple[str, int, int]]
) -> None:
    """Every decision follows, bit for bit, from its sample, the state before and the definition that it names.

    No decision goes back to an older definition than the one before it.
    """
    world = play(samples, actions)
    state, last, answered = None, 0, []
    for body, seq in world.decisions:
        revision = decode(Decision, body).definition
        assert last <= revision <= world.defined
        domain = define(revision)[0] if revision else DOMAIN
        one = samples[seq - 1]
        wanted = Controller(domain, revision=revision).answer(state, one.message, one.published)
        assert encode(wanted) == body
        state, last = wanted.state, revision
        answered.append(seq)
    unchanged = replay_samples(DOMAIN, samples, [])
    assert len(answered) == len(unchanged)
    assert answered == sorted(set(answered))


def test_repetitions_out_of_order_leave_nothing_out() -> None:
    """Samples of a dead process are redelivered to the others out of order: consecutive, but with one between them."""
    world = World([receive(seq, NOW + seq * S, NOW + seq * S) for seq in (1, 2, 3, 4)])
    replicas = [Replica(world) for _ in range(REPLICAS)]
    for seq in (1, 2, 3):
        replicas[0].deliver(seq)
    replicas[0].crash()
    world.delivered = 3
    for seq in (1, 3):
        replicas[1].deliver(seq)
    while replicas[1].step():
        pass
    finish(world, replicas)
    assert [seq for _, seq in world.decisions] == [1, 2, 3, 4]


def list_unacknowledged(world: World) -> list[int]:
    """Samples that were delivered, and may be redelivered."""
    return [seq for seq in range(1, world.delivered + 1) if seq not in world.acknowledged]


def finish(world: World, replicas: list[Replica]) -> None:
    """Run all replicas to the end; missing samples are redelivered until all are acknowledged."""
    for _ in range(5000):
        if any(replica.step() for replica in replicas):
            continue
        if world.delivered < len(world.samples):
            # Redeliver all at once, so that the first replica continues where the others have not been yet.
            while world.delivered < len(world.samples):
                world.delivered += 1
                replicas[world.delivered % REPLICAS].deliver(world.delivered)
        elif missing := list_unacknowledged(world):
            for seq in missing:
                replicas[seq % REPLICAS].deliver(seq)
        else:
            return
    raise AssertionError("samples are never acknowledged")


def test_a_bug_in_the_core_is_no_reason_to_stop() -> None:
    """A sample on which the core fails becomes a dead letter, and the next one is answered."""
    world = World([receive(1, NOW, NOW), receive(2, NOW + S, NOW + S), receive(3, NOW + 2 * S, NOW + 2 * S)])
    broken = replace(world.samples[1].message, critical=(1, 2, 3))
    world.samples[1] = Received(broken, world.samples[1].raw)
    replica = Replica(world)
    for seq in (1, 2, 3):
        replica.deliver(seq)
    while replica.step():
        pass
    assert [seq for _, seq in world.decisions] == [1, 3]
    assert world.dead_letters == [2]


def test_a_purged_decision_that_the_server_remembers_is_not_tried_in_a_tight_loop(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes the decision for a repetition for two minutes: attempts come with growing delays."""
    world = World([receive(1, NOW, NOW)])
    waits.clear()
    tries = 0

    async def refuse(*_: object) -> int:
        nonlocal tries
        tries += 1
        await Pause()
        if sum(waits) > 120:
            return 1
        raise Conflict("was published before")

    monkeypatch.setattr(world, "write", refuse)
    replica = Replica(world)
    replica.deliver(1)
    while replica.step():
        pass
    assert world.acknowledged == {1}
    assert tries < 60
