"""How a configuration names workloads: by kind and name, as any other owner of Pods, or by a label selector."""

import re
from typing import Literal

from msgspec import Struct, field

from schemas.settings import Settings, find_repeated

KINDS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "Rollout": "argoproj.io/v1alpha1",
}
"""The kinds that need no ``apiVersion``, and theirs."""
SELECTOR = "selector"
"""Stands in the key of a target that is a label selector, where others have their kind."""

KIND_NAME = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
API_VERSION = re.compile(r"(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+")
SELECTOR_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
LABEL_NAME = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def check_names(what: str, *names: str) -> None:
    """Check names that become parts of paths, keys and subjects.

    Raises:
        ValueError: one is empty, or holds a slash or a space.
    """
    for name in names:
        if not name or "/" in name or name.split() != [name]:
            raise ValueError(f"{what}: {name!r} is no name of a Kubernetes object")


class WorkloadRef(Struct, frozen=True):
    """One object of the API that owns Pods."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def build(cls, what: str, kind: str, name: str, namespace: str, api_version: str | None) -> "WorkloadRef":
        """Name an object; a known kind needs no ``api_version``.

        Args:
            what: where this is configured, for errors.
            kind: in the API's notation, such as ``StatefulSet``.
            name: of the object.
            namespace: of the object.
            api_version: such as ``apps/v1``.

        Raises:
            ValueError: a name cannot be one, or the kind is not known and has no ``api_version``.
        """
        check_names(what, name, namespace)
        if not KIND_NAME.fullmatch(kind):
            raise ValueError(f"{what}: {kind!r} is no kind of the API: expected one such as StatefulSet")
        if kind == "Pod":
            raise ValueError(f"{what}: a Pod cannot be named, since another takes its place: use a selector")
        if api_version is None and kind not in KINDS:
            raise ValueError(f"{what}: kind {kind} needs an apiVersion; known without are {', '.join(KINDS)}")
        if api_version is not None and not API_VERSION.fullmatch(api_version):
            raise ValueError(f"{what}: {api_version!r} is no apiVersion: expected one such as apps/v1")
        return cls(api_version=api_version or KINDS[kind], kind=kind, namespace=namespace, name=name)

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        group, slash, _ = self.api_version.partition("/")
        return group if slash else ""

    @property
    def is_known(self) -> bool:
        """Whether it is of a kind that needs no ``apiVersion``, in whichever version of its group."""
        return self.kind in KINDS and KINDS[self.kind].partition("/")[0] == self.group

    @property
    def key(self) -> str:
        """Names it on the bus: ``namespace/name`` for a Deployment, else ``namespace/kind/name``.

        The kind is in lower case; of a kind that is not known its group follows: ``kafka.kafka.strimzi.io``.
        """
        if self.is_known:
            middle = "" if self.kind == "Deployment" else f"{self.kind.lower()}/"
        else:
            middle = f"{'.'.join(filter(None, (self.kind.lower(), self.group)))}/"
        return f"{self.namespace}/{middle}{self.name}"


class LabelRequirement(Settings, frozen=True):
    """One expression of a label selector, as Kubernetes has it."""

    key: str
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is tested; an absent label meets ``NotIn``."""
    values: tuple[str, ...] = ()
    """Of ``In`` and ``NotIn``: at least one."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a label cannot be one, or the operator has too many or too few values.
        """
        _check_label(self.key, *self.values)
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            needed = "at least one value" if not self.values else "no values"
            raise ValueError(f"selector: {self.key} {self.operator} needs {needed}")


class LabelSelector(Settings, frozen=True):
    """Which Pods are meant, as Kubernetes has it; all requirements must be met."""

    match_labels: dict[str, str] = field(name="matchLabels", default_factory=dict)
    """Labels and their values."""
    match_expressions: tuple[LabelRequirement, ...] = field(name="matchExpressions", default=())
    """Further requirements."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: it selects everything, or a label cannot be one.
        """
        if not self.match_labels and not self.match_expressions:
            raise ValueError("selector: it would select every Pod: matchLabels or matchExpressions must name a label")
        for key, value in self.match_labels.items():
            _check_label(key, value)


def _check_label(key: str, *values: str) -> None:
    if not LABEL_NAME.fullmatch(key):
        raise ValueError(f"selector: {key!r} is no label")
    for value in values:
        if not LABEL_VALUE.fullmatch(value):
            raise ValueError(f"selector: {value!r} is no value of a label ({key})")


def check_selector_name(what: str, name: str) -> None:
    """Check the name of a selector, which becomes a part of the name of an object.

    Raises:
        ValueError: the API would not take it.
    """
    if not SELECTOR_NAME.fullmatch(name):
        raise ValueError(f"{what}: a selector's name has lower-case letters, digits and '-', at most 63")


def check_namespaces(what: str, namespaces: tuple[str, ...]) -> None:
    """Check the namespaces of a selector.

    Raises:
        ValueError: a name cannot be one, or is repeated.
    """
    check_names(what, *namespaces)
    twice = find_repeated(namespaces)
    if twice:
        raise ValueError(f"{what}: namespace named twice: {', '.join(twice)}")
