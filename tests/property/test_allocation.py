"""The rates of a target's Pods never add up to more than they should, at any step of a plan."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from schemas.units import Rate
from services.actuator.ownership import find_record
from services.kube.objects import Pod
from tests.support.kube.objects import TARGET, after, deployment, order, plan_of, pod, record

VALUES = st.none() | st.sampled_from(["0", "x", "10M", "33333k", "1k", "999G"])
RECORDED = st.booleans()


@given(
    limit=st.integers(int(TARGET.min), int(TARGET.max)),
    replicas=st.integers(0, 9),
    found=st.lists(st.tuples(VALUES, RECORDED, st.booleans()), max_size=9),
    before=VALUES,
    data=st.data(),
)
def test_the_sum_never_exceeds_the_limit(
    limit: int, replicas: int, found: list[tuple[str | None, bool, bool]], before: str | None, data: st.DataObject
) -> None:
    """Pods with any values, some recorded, some being deleted: phase by phase, in any order within a phase."""
    pods = {
        f"p{n}": pod(n, value, record("20M", 40_000) if recorded else None, going=going)
        for n, (value, recorded, going) in enumerate(found)
    }
    main = deployment(before, replicas=replicas)
    plan = plan_of(order(limit), main, *pods.values())
    most = max(total(pods), limit)
    for phase in plan.phases:
        for write in data.draw(st.permutations(phase)):
            assert Rate.parse(write.record.value) == write.rate >= 1
            changed = after(write.obj, write.operations)
            if changed.uid in pods:
                pods[changed.uid] = changed
                assert total(pods) <= most
    patched = {uid: one for uid, one in pods.items() if not one.is_terminating}
    assert total(patched) <= limit
    for one in patched.values():
        kept = find_record(one)
        assert one.limit is not None
        assert kept is None or kept.limit in (limit, 40_000)


def total(pods: Mapping[str, Pod]) -> float:
    """The rate that they may send together, kbit/s; unlimited if one has no limit."""
    rates = [one.limit for one in pods.values()]
    return sum(float("inf") if rate is None else rate for rate in rates)
