"""Targets and critical workloads are named by kind and name, by a short form, or by a selector; nothing else."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from schemas import generate
from schemas.config import Config
from schemas.domain import Critical, Target
from schemas.units import decode_unit
from services.bus.subjects import Subjects, parse_token

BOUNDS = "min: 1M, max: 9M, fail_safe: 2M"
SELECTED = "name: hogs, selector: {matchLabels: {tier: batch}}"


def read(text: str, kind: type[Any] = Target) -> Any:
    """What a line of the file stands for."""
    return msgspec.convert(yaml.safe_load(f"{{{text}}}"), type=kind, dec_hook=decode_unit)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("deployment: app", "default/app"),
        ("kind: Deployment, name: app", "default/app"),
        ("kind: Deployment, name: app, apiVersion: apps/v1, namespace: line", "line/app"),
        ("kind: StatefulSet, name: db, namespace: line", "line/statefulset/db"),
        ("kind: DaemonSet, name: logs.v2", "default/daemonset/logs.v2"),
        ("kind: ReplicaSet, name: app-1", "default/replicaset/app-1"),
        ("kind: Job, name: load", "default/job/load"),
        ("kind: CronJob, name: backup", "default/cronjob/backup"),
        ("kind: CronJob, name: backup, apiVersion: batch/v1beta1", "default/cronjob/backup"),
        ("kind: Rollout, name: web", "default/rollout/web"),
        ("kind: Kafka, name: bus, apiVersion: kafka.strimzi.io/v1beta2", "default/kafka.kafka.strimzi.io/bus"),
        ("kind: Deployment, name: app, apiVersion: other.io/v1", "default/deployment.other.io/app"),
        ("kind: ReplicationController, name: old, apiVersion: v1", "default/replicationcontroller/old"),
        (f"{SELECTED}, namespaces: [a, b]", "default/selector/hogs"),
    ],
)
def test_every_name_has_a_key_of_its_own_that_a_subject_keeps(text: str, key: str) -> None:
    """Deployments keep the keys that they have always had; a subject's last token gives kind and name back."""
    target = read(f"{text}, {BOUNDS}")
    assert target.key == key
    last = Subjects().action("line", target.key).split(".")
    assert len(last) == 6
    assert "/".join(map(parse_token, last[-2:])) == key


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "exactly one of deployment, kind, selector, got none"),
        ("name: app", "exactly one of deployment, kind, selector, got none"),
        ("deployment: app, kind: Deployment, name: app", "got deployment and kind"),
        (f"kind: Job, {SELECTED}", "got kind and selector"),
        ("deployment: app, name: app", "deployment is a name already"),
        ("kind: Job", "kind needs a name beside it"),
        ("selector: {matchLabels: {a: b}}", "selector needs a name beside it"),
        ("kind: Kafka, name: bus", "kind Kafka needs an apiVersion"),
        ("kind: job, name: load", "'job' is no kind of the API"),
        ("kind: Pod, name: one", "use a selector"),
        ("kind: Kafka, name: bus, apiVersion: Kafka", "'Kafka' is no apiVersion"),
        ("deployment: app, apiVersion: apps/v1", "apiVersion needs a kind"),
        ("kind: Job, name: a/b", "'a/b' is no name of a Kubernetes object"),
        ("deployment: ''", "'' is no name of a Kubernetes object"),
        ("kind: Job, name: load, namespaces: [a]", "namespaces needs a selector"),
        (f"{SELECTED}, namespaces: [a, a]", "namespace named twice: a"),
        (f"{SELECTED}, namespaces: ['']", "'' is no name of a Kubernetes object"),
        ("name: A.b, selector: {matchLabels: {a: b}}", "a selector's name has lower-case letters"),
        ("name: a, selector: {}", "it would select every Pod"),
        ("name: a, selector: {matchLabels: {'a b': c}}", "'a b' is no label"),
        ("name: a, selector: {matchLabels: {a: 'c d'}}", "'c d' is no value of a label"),
        ("name: a, selector: {matchExpressions: [{key: a, operator: In}]}", "a In needs at least one value"),
        ("name: a, selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}", "Exists needs no values"),
        ("name: a, selector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}", "Gt"),
        ("name: a, selector: {match_labels: {a: b}}", "match_labels"),
    ],
)
def test_a_target_that_names_nothing_or_too_much_is_refused_with_the_reason(text: str, why: str) -> None:
    """The text says what is wrong."""
    with pytest.raises(msgspec.ValidationError) as error:
        read(f"{text}, {BOUNDS}" if text else BOUNDS)
    assert why in str(error.value)


def test_a_critical_workload_may_name_its_kind_and_keeps_its_key() -> None:
    """A latency histogram has no kinds: the key is the same for all."""
    plain = read("workload: robot, namespace: line", Critical)
    named = read("workload: robot, namespace: line, kind: StatefulSet", Critical)
    assert plain.ref is None
    assert (named.ref.api_version, named.ref.kind, named.ref.name) == ("apps/v1", "StatefulSet", "robot")
    assert plain.key == named.key == "line/robot"
    for text, why in (("apiVersion: apps/v1", "needs a kind"), ("kind: Robot", "needs an apiVersion")):
        with pytest.raises(msgspec.ValidationError, match=why):
            read(f"workload: robot, {text}", Critical)


def test_the_published_schema_takes_what_is_taken_here() -> None:
    """An editor accepts each way to name a target."""
    validator = jsonschema.Draft202012Validator(json.loads((generate.HOME / generate.CONFIG_FILE).read_text("utf-8")))
    ways = (
        "deployment: app",
        "kind: Job, name: load",
        f"{SELECTED}, namespaces: [a]",
        "kind: K, name: k, apiVersion: v1",
    )
    targets = ", ".join(f"{{{way}, {BOUNDS}}}" for way in ways)
    tree = yaml.safe_load(
        f"domains: [{{name: line, critical: [{{workload: robot, kind: Job}}], targets: [{targets}]}}]"
    )
    assert not list(validator.iter_errors(tree))
    config = msgspec.convert(tree, type=Config, dec_hook=decode_unit)
    assert len({target.key for target in config.domains[0].targets}) == len(ways)
