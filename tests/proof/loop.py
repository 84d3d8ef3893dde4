"""The closed loop: the shipped shield and the actuator's rise bound around what is in force, in every order of events.

In each period a sample is good or breaks its SLO, and a policy asks for the maximum or for what it has.  The decision
reaches an actuator or does not, the actuator writes or cannot (the API server is away, or it is stopped), and its
report reaches the decision service or does not.  Besides, the dead-man fires, an actuator restarts or another one takes
over, and the bus is wiped.  Any of this may happen in any period, so every outage and every return is among them.

These claims hold in every reachable state:

- a limit is raised only if the one decided before was reported to be in force, and from there
- above what was reported, no more than one second's rise is ever decided
- no write raises what is in force by more than one second's rise, however long nothing could be written
- over any time t it rises by at most rise x (t + 1 s), unless an actuator restarts
- a cut that is on its way is never taken back at once
- once everything works again, the limit reaches the maximum: no outage locks the loop
"""

from collections.abc import Callable, Iterator
from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from schemas.messages import ShieldMemory
from services.actuator.desired_limit import RiseBound
from services.control.shield import Limits, ShieldInput, shield, start_from
from tests.support.kube.objects import order as build_order

_S = 10**9
_TICK = _S // 2
_NOW = 100 * _S
LIMITS = Limits(min=1, max=6, fail_safe=2, rise=2, deadband=1, cut=500, decay=_S)
_HEALTHY = 40
"""So many good periods bring any state to the maximum."""

Start = Callable[[Limits, ShieldMemory, int, bool], tuple[ShieldMemory, int]]


class LoopState(Struct, frozen=True):
    """The loop at the end of a period.  Rates are kbit/s; times are ns before now."""

    decided: int = 2
    age: int = _S
    """Since when it was decided; more than a second counts as one."""
    settles: int = 0
    """How long windows still see the last cut."""
    back: int = 0
    """The limit before the last cut, while no queue explains that cut."""
    reported: int | None = None
    """What the decision service knows to be in force; None: no report."""
    in_force: int = 2
    ordered: int = 2
    """What the actuator in charge heard last, or the fail-safe limit."""
    saved: float = 2.0
    """The rise that the actuator may make at once."""


class Broken(AssertionError):
    """An order of events that breaks a claim."""


def _decide(state: LoopState, start: Start, violated: bool, greedy: bool, queued: bool = True) -> LoopState:
    memory = ShieldMemory(state.decided, _NOW - state.age, _NOW - 2 * _TICK + state.settles, 0, state.back)
    base, highest = memory, LIMITS.max
    if state.reported is not None:
        base, highest = start(LIMITS, memory, state.reported, False)
    inputs = ShieldInput(_NOW, _NOW - 2 * _TICK, 2 * _TICK, _TICK, violated, False, queued)
    limit, _, after = shield(LIMITS, base, LIMITS.max if greedy else base.limit, inputs, highest)
    known = state.reported
    if known is not None and limit > max(state.decided, known) and known != state.decided:
        raise Broken(f"{state}: raised to {limit} although {state.decided} is not in force")
    if known is not None and limit > known + LIMITS.rise:
        raise Broken(f"{state}: {limit} is a leap from {known}")
    if known is not None and state.decided < known and limit > state.decided + LIMITS.rise:
        raise Broken(f"{state}: the cut was taken back to {limit}")
    age, settles = min(_NOW - after.since, _S), max(after.cut_until - (_NOW - 2 * _TICK), 0)
    return replace(state, decided=limit, age=age, settles=settles, back=after.back)


def _act(state: LoopState, *, bounded: bool) -> LoopState:
    bound = RiseBound(LIMITS.rise)
    bound._saved, bound._now, bound._in_force = state.saved, 1.0, state.in_force
    wanted = build_order(state.ordered)
    step = bound.next_step(wanted, state.in_force, 1.0).limit if bounded else state.ordered
    if step > state.in_force + LIMITS.rise:
        raise Broken(f"{state}: {state.in_force} to {step} in one write")
    bound.next_step(wanted, step, 1.0)
    return replace(state, in_force=step, saved=bound._saved)


def _wait(state: LoopState, *, elapsed: int = _TICK) -> LoopState:
    bound = RiseBound(LIMITS.rise)
    bound._saved, bound._now, bound._in_force = state.saved, 0.0, state.in_force
    bound.next_step(build_order(state.in_force), state.in_force, elapsed / _S)
    age, settles = min(state.age + elapsed, _S), max(state.settles - elapsed, 0)
    return replace(state, age=age, settles=settles, saved=bound._saved)


def after(state: LoopState, start: Start, *, bounded: bool) -> Iterator[LoopState]:
    """Every state that one period can lead to.

    Raises:
        Broken: a claim does not hold.
    """
    # In violation nothing rises, whatever is asked for, but to take back a cut that no queue explains.
    samples = (
        (False, True, False),
        (False, False, False),
        (True, True, False),
        (False, True, True),
        (True, True, True),
    )
    decisions = [_decide(state, start, *one) for one in samples]
    for now, heard, writes, is_reported in product(dict.fromkeys(decisions), *[(False, True)] * 3):
        done = replace(now, ordered=now.decided) if heard else now
        done = _act(done, bounded=bounded) if writes else done
        if done.in_force >= state.in_force and done.in_force + done.saved > state.in_force + state.saved:
            raise Broken(f"{state}: rises faster than allowed, to {done}")
        yield _wait(replace(done, reported=done.in_force) if is_reported else done)
    yield _wait(replace(state, ordered=min(state.in_force, LIMITS.fail_safe)))  # the dead-man
    yield replace(state, saved=float(LIMITS.rise))  # another process
    yield replace(state, decided=LIMITS.fail_safe, age=0, settles=0, back=0, reported=None)  # the bus was wiped


def explore(start: Start = start_from, *, bounded: bool = True) -> int:
    """Visit every reachable state; return how many there are.

    Args:
        start: in place of the shipped ``start_from``.
        bounded: whether the actuator bounds rises.

    Raises:
        Broken: a claim does not hold in one of them.
    """
    first = LoopState()
    seen, waiting = {first}, [first]
    while waiting:
        state = waiting.pop()
        _check_return(state, start, bounded=bounded)
        for later in after(state, start, bounded=bounded):
            if later not in seen:
                seen.add(later)
                waiting.append(later)
    return len(seen)


def _check_return(state: LoopState, start: Start, *, bounded: bool) -> None:
    now = state
    for _ in range(_HEALTHY):
        now = _decide(now, start, violated=False, greedy=True, queued=False)
        now = _act(replace(now, ordered=now.decided), bounded=bounded)
        now = _wait(replace(now, reported=now.in_force))
        if now.decided == now.in_force == LIMITS.max:
            return
    raise Broken(f"{state}: never reaches the maximum again: {now}")


WEAKER: dict[str, tuple[Start, bool]] = {
    "decisions that know nothing of what is in force": (lambda _l, memory, _f, _u: (memory, LIMITS.max), True),
    "rises that start from what was decided": (
        lambda _l, memory, force, _u: (memory, max(force, memory.limit) if force != memory.limit else LIMITS.max),
        True,
    ),
    "rises of what is not in force": (
        lambda limits, memory, force, unsettled: (start_from(limits, memory, force, unsettled)[0], LIMITS.max),
        True,
    ),
    "steps that start from what is in force although less was decided": (
        lambda _l, memory, force, _u: (
            ShieldMemory(force, memory.since, memory.cut_until),
            LIMITS.max if force == memory.limit else max(force, memory.limit),
        ),
        True,
    ),
    "an actuator that makes every rise at once": (start_from, False),
}
"""Variants that must fail: the start of a step, and whether the actuator bounds rises."""
