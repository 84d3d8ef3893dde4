"""When the API server is asked again after a refusal, by a clock that the test sets."""

from services.actuator.plan import Plan
from services.actuator.refusals import Refusals
from services.kube.objects import Unavailable
from tests.support.kube.objects import deployment, order, plan_of, pod

AT = 1000.0


def refuse(plan: Plan) -> Refusals:
    """What is kept after every write of a plan was refused at ``AT``."""
    refusals = Refusals()
    error = Unavailable("no", status=422)
    assert refusals.count(plan.writes, {write.obj.uid: error for write in plan.writes}, AT)
    return refusals


def test_a_lower_limit_need_not_wait() -> None:
    """The refused limit waits for seconds; a lower one is asked at once, and then at most every twelve seconds."""
    objects = deployment("20M"), pod(1), pod(2)
    refused, lower = (plan_of(order(limit, end=limit), *objects) for limit in (60_000, 12_000))
    refusals = refuse(refused)
    part, wait_s = refusals.select(refused, AT)
    assert part.writes == ()
    assert 3 < wait_s <= 5
    part, _ = refusals.select(lower, AT)
    assert len(part.writes) == 1
    part, wait_s = refusals.select(lower, AT + 1)
    assert part.writes == ()
    assert wait_s < 3


def test_an_accepted_limit_ends_the_waiting() -> None:
    """After one success all others may be sent."""
    objects = deployment("20M"), pod(1), pod(2)
    refused, lower = (plan_of(order(limit, end=limit), *objects) for limit in (60_000, 12_000))
    refusals = refuse(refused)
    part, _ = refusals.select(lower, AT)
    refusals.count(part.writes, {}, AT)
    part, wait_s = refusals.select(lower, AT)
    assert len(part.writes) >= 2
    assert wait_s == 0


def test_what_others_accept_says_nothing_of_the_refused() -> None:
    """Pods that are patched with every decision keep the delay of one that is refused."""
    objects = deployment("20M"), pod(1), pod(2)
    plan = plan_of(order(60_000, end=60_000), *objects)
    refused, *others = plan.writes
    refusals = Refusals()
    assert refusals.count([refused], {refused.obj.uid: Unavailable("no", status=422)}, AT)
    refusals.count(others, {}, AT + 1)
    part, wait_s = refusals.select(plan, AT + 1)
    assert refused not in part.writes
    assert wait_s > 1


def test_the_delay_grows_while_some_stay_refused() -> None:
    """Where one is accepted the next is tried at once, and its refusal costs more than the first."""
    objects = deployment("20M"), pod(1), pod(2)
    plan = plan_of(order(60_000, end=60_000), *objects)
    refusals = refuse(plan)
    one, *rest = plan.writes
    refusals.count([one], {}, AT + 5)
    assert refusals.select(plan, AT + 5)[1] == 0
    refusals.count(rest, {write.obj.uid: Unavailable("no", status=422) for write in rest}, AT + 5)
    assert refusals.select(plan, AT + 5)[0].writes == (one,)
    assert all(write not in refusals.select(plan, AT + 5 + 5.9)[0].writes for write in rest)
