"""Plans: the actuator's writes and their causes, and when it pauses a target."""

import pytest
from msgspec.structs import replace

from schemas.units import Rate
from services.actuator.ownership import KEY, PAUSED, RAISE_BACKLOG, find_record, pause_reason, resume_command
from services.actuator.plan import Plan, share_per_pod
from services.actuator.reporter import recover_actions
from services.kube.objects import BANDWIDTH, Deployment
from services.tools.kubectl.pause import plan_resume
from tests.support.kube.objects import LINE, ME, TARGET, after, deployment, order, plan_of, pod, record


def list_writes(plan: Plan) -> dict[str, tuple[str, str]]:
    """Value and cause of every write, by object."""
    return {write.obj.metadata.name: (write.record.value, write.record.cause) for write in plan.writes}


def test_a_first_decision_claims_everything() -> None:
    """Without records, Deployment and Pods get a value and a record, which keeps the original value."""
    plan = plan_of(order(60_000), deployment("44M"), pod(1), pod(2, bandwidth=None))
    assert list_writes(plan) == {
        "app": ("60M", "decision"),
        "app-1-1": ("30M", "decision"),
        "app-1-2": ("30M", "decision"),
    }
    assert [write.record.found for write in plan.writes] == ["44M", "10M", None]
    assert {write.record.action for write in plan.writes} == set(plan.reasons)
    main = plan.writes[0].record
    assert (main.term, main.by) == (ME.term, ME.by)


def test_nothing_is_written_twice() -> None:
    """After a plan is applied nothing is left to write; the record keeps the first value that was found."""
    objects = [deployment("44M"), pod(1), pod(2)]
    for limit in (60_000, 20_000):
        main, *pods = objects
        plan = plan_of(order(limit, end=limit), main, *pods)  # type: ignore[arg-type]
        objects = [after(write.obj, write.operations) for write in plan.writes]
        main, *pods = objects
        assert plan_of(order(limit, end=limit), main, *pods).writes == ()  # type: ignore[arg-type]
    found = [one.found if (one := find_record(obj)) else None for obj in objects]
    assert found == ["44M", "10M", "10M"]


def test_the_same_rate_in_other_words_is_no_difference() -> None:
    """50M and 50000k are one value: neither drift nor a foreign value."""
    main = deployment("60000k", record("60M", 60_000), replicas=1)
    assert pause_reason(main, managed=True) is None
    assert plan_of(order(60_000), main, pod(1, "60000k", record("60M", 60_000))).writes == ()


@pytest.mark.parametrize(
    ("one", "cause"),
    [
        (pod(1, "10M"), "new-pod"),
        (pod(1, "99M", record("30M", 60_000)), "drift"),
        (pod(1, None, record("30M", 60_000)), "drift"),
        (pod(1, "nonsense", record("30M", 60_000)), "drift"),
        (pod(1, "60M", record("60M", 60_000)), "rescale"),
        (pod(1, "20M", record("20M", 40_000)), "decision"),
    ],
)
def test_why_a_pod_is_patched(one: object, cause: str) -> None:
    """A Pod is new, was changed by another client, has another share now, or missed the last decision."""
    main = deployment("60M", record("60M", 60_000))
    other = pod(2, "30M", record("30M", 60_000))
    assert list_writes(plan_of(order(60_000), main, one, other)) == {"app-1-1": ("30M", cause)}  # type: ignore[arg-type]


def test_a_removed_annotation_on_the_deployment_is_drift() -> None:
    """The record shows that the annotation existed: it is written again, and the Pods are not."""
    main = deployment(None, record("60M", 60_000), replicas=1)
    assert list_writes(plan_of(order(60_000), main, pod(1, "60M", record("60M", 60_000)))) == {"app": ("60M", "drift")}


def test_pods_that_ended_or_end_are_not_patched() -> None:
    """A terminating Pod keeps its share until it is gone; a terminated one has none."""
    main = deployment("60M", record("60M", 60_000), replicas=1)
    plan = plan_of(order(60_000), main, pod(1), pod(2, going=True), pod(3, phase="Succeeded"))
    assert list_writes(plan) == {"app-1-1": ("30M", "new-pod")}


@pytest.mark.parametrize(
    ("limit", "replicas", "pods", "share"),
    [(60_000, 3, 3, 20_000), (10_000, 3, 3, 3_333), (60_000, 4, 2, 15_000), (60_000, 0, 0, 60_000), (3, 7, 7, 1)],
)
def test_shares(limit: int, replicas: int, pods: int, share: int) -> None:
    """The limit is divided by the existing or expected replicas, rounded down, and is at least 1 kbit/s."""
    main = deployment(replicas=replicas)
    assert share_per_pod(TARGET, limit, main, [pod(n) for n in range(pods)]) == share
    assert share_per_pod(replace(TARGET, scope="per-pod"), limit, main, [pod(n) for n in range(pods)]) == limit


def test_cuts_come_before_raises() -> None:
    """If some Pods get less and one gets more, bandwidth is released before it is assigned."""
    main = deployment("60M", record("60M", 60_000), replicas=3)
    pods = [pod(n, "30M", record("30M", 60_000)) for n in (1, 2)]
    phases = [[write.obj.uid for write in phase] for phase in plan_of(order(60_000), main, *pods, pod(3, "5M")).phases]
    assert phases == [["p1", "p2"], ["p3"]]


def test_one_action_for_each_cause() -> None:
    """A new Pod and the others' new shares are two actions with ids of their own."""
    main = deployment("60M", record("60M", 60_000), replicas=2)
    plan = plan_of(order(60_000), main, pod(1, "60M", record("60M", 60_000)), pod(2))
    assert len(plan.reasons) == 2
    assert {write.record.cause for write in plan.writes} == {"rescale", "new-pod"}


def test_ids_are_stable_and_distinguish_actions() -> None:
    """The same plan on the same objects has the same id; another state or another limit has another."""
    first = plan_of(order(60_000), deployment(), pod(1))
    assert first.reasons == plan_of(order(60_000), deployment(), pod(1)).reasons
    assert first.reasons.keys() != plan_of(order(60_000), deployment(), pod(1, version=2)).reasons.keys()
    assert first.reasons.keys() != plan_of(order(61_000), deployment(), pod(1)).reasons.keys()


def test_unacknowledged_writes_stay_in_the_record() -> None:
    """A record keeps earlier writes until the bus has acknowledged their reports."""
    owing = record("30M", 60_000, action="first", owed=(record("20M", 40_000, action="zeroth"),))
    main = deployment("60M", record("60M", 60_000, action="first"), replicas=1)
    for owed, kept in (({"first", "zeroth"}, ["zeroth", "first"]), ({"first"}, ["first"]), (set(), [])):
        plan = plan_of(order(60_000), main, pod(1, "30M", owing), owed=frozenset(owed))
        assert [one.action for one in plan.writes[0].record.owed] == kept
        assert all(one.value for one in plan.writes[0].record.owed)


def test_an_object_with_a_backlog_is_only_cut() -> None:
    """All raises wait until the bus has acknowledged some reports; cuts continue, and drop no report."""
    owed = tuple(record("1M", 1_000, action=f"a{n}") for n in range(RAISE_BACKLOG))
    ids = frozenset(one.action for one in owed) | {"last"}
    main = deployment("60M", record("60M", 60_000), replicas=2)
    pods = [pod(n, "30M", record("30M", 60_000, action="last", owed=owed)) for n in (1, 2)]
    raises = plan_of(order(70_000), main, *pods, owed=ids)
    assert raises.has_backlog
    assert raises.without_raises().writes == ()
    assert not plan_of(order(70_000), main, *pods).has_backlog
    cut = plan_of(order(50_000), main, *pods, owed=ids).without_raises()
    assert [write.obj.uid for write in cut.writes] == ["d", "p1", "p2"]
    assert [len(write.record.owed) for write in cut.writes] == [1, RAISE_BACKLOG + 1, RAISE_BACKLOG + 1]


def test_reports_are_read_back_from_the_objects() -> None:
    """Every unreported write in the records is reported once per action, oldest first, with its Pods."""
    early = record("20M", 40_000, action="early", at=5)
    main = deployment("60M", record("60M", 60_000, action="late", at=9, decision="d", was=40_000))
    pods = [pod(n, "30M", record("30M", 60_000, action="late", at=9, decision="d", owed=(early,))) for n in (1, 2)]
    lost = {"d": {"late"}, "p1": {"early", "late"}, "p2": {"late"}}
    actions = recover_actions(LINE, TARGET, [main, *pods], lost)
    assert [(one.id, one.limit, one.outcome, len(one.pods)) for one in actions] == [
        ("early", 40_000, "applied", 1),
        ("late", 60_000, "applied", 2),
    ]
    assert {pod.limit for pod in actions[1].pods} == {30_000}
    assert (actions[1].applied, actions[1].was, actions[1].decision) == (9, 40_000, "d")


@pytest.mark.parametrize(
    ("main", "managed", "why"),
    [
        (deployment(), False, None),
        (deployment("44M"), False, None),
        (deployment("60M", record("60M", 60_000)), True, None),
        (deployment(None, record("60M", 60_000)), True, None),
        (deployment("33M", record("60M", 60_000)), True, "somebody else set"),
        (deployment("x", record("60M", 60_000)), True, "somebody else set"),
        (deployment("60M", "{nonsense"), False, "cannot be read"),
        (deployment("60M", '{"v": 1}'), False, "cannot be read"),
        (deployment("60M"), True, "was removed"),
        (deployment("60M", "{}"), True, None),
    ],
)
def test_when_a_target_is_paused(main: object, managed: bool, why: str | None) -> None:
    """A foreign value, or a missing or unreadable record, pauses a target; a value from before Sluice does not."""
    found = pause_reason(main, managed=managed)  # type: ignore[arg-type]
    assert (found is None) if why is None else (why in (found or ""))


def pause_by_hand(main: Deployment, value: str) -> Deployment:
    """The Deployment, with the annotation by which a person pauses it."""
    return replace(main, metadata=replace(main.metadata, annotations={**main.annotations, PAUSED: value}))


def test_a_person_pauses_a_target() -> None:
    """Any value of the annotation but `false` pauses, whatever else is on the object; `resume` removes just that."""
    for value, why in (("true", "says 'true'"), ("broken link", "says 'broken link'"), ("false", None)):
        main = pause_by_hand(deployment("60M", record("60M", 60_000)), value)
        found = pause_reason(main, managed=True)
        assert (found is None) if why is None else (why in (found or ""))
        assert plan_resume(main) == ({} if why is None else {PAUSED: None})
    paused = pause_by_hand(deployment("33M", record("60M", 60_000)), "true")
    assert resume_command(paused) == f"kubectl -n default annotate deployment app {PAUSED}-"


def test_resume_hands_back_what_something_else_paused() -> None:
    """A foreign value is removed, and a missing or unreadable record replaced, as the shown command would do it."""
    assert plan_resume(deployment("33M", record("60M", 60_000))) == {BANDWIDTH: None}
    assert plan_resume(deployment("60M")) == {KEY: "{}"}
    assert plan_resume(deployment("60M", "{nonsense")) == {KEY: "{}"}
    assert plan_resume(deployment("60M", "{}")) == {}


def test_the_resume_command() -> None:
    """The command depends on why the target is paused."""
    foreign = resume_command(deployment("33M", record("60M", 60_000)))
    assert foreign == f"kubectl -n default annotate deployment app {BANDWIDTH}-"
    assert resume_command(deployment("33M")) == f"kubectl -n default annotate deployment app {KEY}='{{}}' --overwrite"


def test_values_are_what_cilium_reads() -> None:
    """Every written value parses to exactly the planned rate."""
    for limit in (5_000, 5_001, 12_345, 79_999, 80_000):
        for write in plan_of(order(limit), deployment(replicas=7), *(pod(n) for n in range(7))).writes:
            assert Rate.parse(write.record.value) == write.rate
