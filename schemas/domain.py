"""The configuration of one domain: who is protected, and whose limit may move.

A *domain* is a set of workloads that share a bottleneck.  It is the unit of control: one sample
describes it, one decision answers, and its key orders the messages.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import UNSET, UnsetType, field
from msgspec.structs import replace

from schemas.settings import Settings, between, find_repeated
from schemas.units import Duration, Rate
from schemas.workloads import (
    KINDS,
    LABEL_NAME,
    SELECTOR,
    LabelSelector,
    WorkloadRef,
    check_names,
    check_namespaces,
    check_selector_name,
)

_MS = 1_000_000
PER_NODE = "node"
"""The ``per`` of a definition with an instance for each node; any other is the key of a node's label."""


class Critical(Settings, frozen=True, dict=True):
    """A critical workload and its service level objective on L4 latency; loss must be zero."""

    workload: str
    """Name of the workload, as its latency histogram has it."""
    namespace: str = "default"
    """Namespace of the workload."""
    kind: str | None = None
    """Its kind, such as StatefulSet: `sluice check` then looks for that one. Without, for any known kind."""
    api_version: str | None = field(name="apiVersion", default=None)
    """The kind's apiVersion, where the kind is not a known one."""
    jitter: Duration = Duration(2 * _MS)
    """Largest jitter: the interquartile range (Q75 - Q25) of the latency."""
    p95: Duration = Duration(2 * _MS)
    """Largest 95th percentile of the latency."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a name cannot be one, or the kind is none.
        """
        super().__post_init__()
        what = f"critical workload {self.workload!r}"
        check_names("critical workload", self.workload, self.namespace)
        if self.api_version is not None and self.kind is None:
            raise ValueError(f"{what}: apiVersion needs a kind")
        if self.kind is not None:
            WorkloadRef.build(what, self.kind, self.workload, self.namespace, self.api_version)

    @cached_property
    def ref(self) -> WorkloadRef | None:
        """The object of the API; None where its kind is not configured."""
        if self.kind is None:
            return None
        what = f"critical workload {self.workload!r}"
        return WorkloadRef.build(what, self.kind, self.workload, self.namespace, self.api_version)

    @cached_property
    def key(self) -> str:
        """``namespace/workload``, as samples name it, whatever its kind: a histogram has no kinds."""
        return f"{self.namespace}/{self.workload}"


class Target(Settings, frozen=True, dict=True, kw_only=True):
    """A best-effort workload whose egress bandwidth Sluice sets.

    One of three names it: ``deployment``; ``kind`` and ``name``; or ``selector`` and a ``name`` of its own.
    """

    deployment: str | None = None
    """Name of a Deployment: short for kind Deployment and this name."""
    kind: str | None = None
    """Kind of the object: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, Rollout, or any other."""
    name: str | None = None
    """Name of the object; beside a selector, a name for what it selects."""
    api_version: str | None = field(name="apiVersion", default=None)
    """The kind's apiVersion; needed where the kind is not among those above."""
    selector: LabelSelector | None = None
    """Which Pods, whoever owns them."""
    namespaces: tuple[str, ...] = ()
    """Where the selector looks for Pods; only in the target's own namespace if empty."""
    min: Rate
    """Least limit."""
    max: Rate
    """Largest limit."""
    fail_safe: Rate
    """The limit that holds while nothing is measured or decided; inside [min, max]."""
    namespace: str = "default"
    """Namespace of the object; of a selector, the one that its record and its key are in."""
    weight: Annotated[int, between(1, 1000)] = 1
    """Share of the budget, beside the weights of the domain's other targets."""
    scope: Literal["aggregate", "per-pod"] = "aggregate"
    """Whether limit, min, max and fail_safe are for all Pods together or for each one."""

    @cached_property
    def ref(self) -> WorkloadRef | None:
        """The object of the API; None where a selector names the target."""
        if self.selector is not None:
            return None
        kind, name = ("Deployment", self.deployment) if self.deployment is not None else (self.kind, self.name)
        return WorkloadRef.build("target", kind or "", name or "", self.namespace, self.api_version)

    @cached_property
    def key(self) -> str:
        """Names the target in samples, decisions and actions.

        ``namespace/name`` for a Deployment, ``namespace/kind/name`` for others, ``namespace/selector/name``.
        """
        return f"{self.namespace}/{SELECTOR}/{self.name}" if self.ref is None else self.ref.key

    @cached_property
    def pod_namespaces(self) -> tuple[str, ...]:
        """Where its Pods are."""
        return self.namespaces or (self.namespace,)

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: it is named by none or several of the three, a name cannot be one, the bounds are out of
                order, or the weight is out of range.
        """
        super().__post_init__()
        self._check_naming()
        _check_bounds(f"target {self.key}", self)

    def _check_naming(self) -> None:
        ways = {"deployment": self.deployment, "kind": self.kind, "selector": self.selector}
        used = [way for way, value in ways.items() if value is not None]
        if len(used) != 1:
            called = self.deployment or self.name
            what = f"target {called!r}" if called else "target"
            raise ValueError(f"{what}: needs exactly one of {', '.join(ways)}, got {' and '.join(used) or 'none'}")
        what = f"target {(self.deployment if self.name is None else self.name)!r}"
        if self.deployment is not None and self.name is not None:
            raise ValueError(f"{what}: deployment is a name already: name needs kind or selector instead")
        if self.deployment is None and self.name is None:
            raise ValueError(f"target: {used[0]} needs a name beside it")
        if self.api_version is not None and self.kind is None:
            raise ValueError(f"{what}: apiVersion needs a kind")
        if self.namespaces and self.selector is None:
            raise ValueError(f"{what}: namespaces needs a selector; an object is in one namespace")
        if self.selector is not None:
            check_names("target", self.name or "", self.namespace)
            check_selector_name(what, self.name or "")
            check_namespaces(what, self.namespaces)
            return
        name = self.deployment if self.name is None else self.name
        WorkloadRef.build("target", self.kind or "Deployment", name or "", self.namespace, self.api_version)


class Enrolment(Settings, frozen=True, kw_only=True):
    """Which workloads may join the domain's targets by the label ``sluice.dev/domain``, and within which bounds.

    A workload's annotations ``sluice.dev/min``, ``max``, ``fail-safe``, ``weight`` and ``scope`` take the place of what
    is set here.  Its bounds lie inside of these.
    """

    min: Rate
    """Least limit of a workload, and the least that one may ask for."""
    max: Rate
    """Largest limit of a workload, and the largest that one may ask for."""
    fail_safe: Rate
    """The limit that holds while nothing is measured or decided; inside [min, max]."""
    namespaces: tuple[str, ...] = ()
    """The namespaces of the workloads that may join; in a file, at least one."""
    kinds: tuple[str, ...] = ("Deployment",)
    """Their kinds, of those that need no apiVersion."""
    weight: Annotated[int, between(1, 1000)] = 1
    """Share of the budget, beside the weights of the domain's other targets, and the largest that one may ask for."""
    scope: Literal["aggregate", "per-pod"] = "aggregate"
    """Whether the limits are for all Pods of a workload together or for each one."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a namespace or a kind cannot be one, there is none, or the bounds are out of order.
        """
        super().__post_init__()
        if not self.namespaces or not self.kinds:
            raise ValueError("enrol: needs at least one namespace and one kind")
        check_namespaces("enrol", self.namespaces)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or find_repeated(self.kinds):
            wrong = unknown or find_repeated(self.kinds)
            raise ValueError(f"enrol: expected each of {', '.join(KINDS)} once at most, got {', '.join(wrong)}")
        _check_bounds("enrol", self)


def _check_bounds(what: str, bounds: Target | Enrolment) -> None:
    if not bounds.min <= bounds.fail_safe <= bounds.max:
        raise ValueError(
            f"{what}: expected min <= fail_safe <= max, "
            f"got min {bounds.min}, fail_safe {bounds.fail_safe}, max {bounds.max}"
        )


class Shield(Settings, frozen=True):
    """The bounds that no policy can cross, whatever it proposes."""

    rise_per_second: Annotated[float, between(0.001, 1)] = 0.2
    """Largest rise of a limit, as a share of [min, max] and per second of sample time."""
    cut: Annotated[float, between(0.05, 0.95)] = 0.5
    """After a violation a limit is at most this share of what it was, once per signal window."""
    settle: Duration = Duration(500 * _MS)
    """How long a cut takes to show in full, beyond the next sample: patch, and the bottleneck's queue to drain."""
    decay: Duration = Duration(5_000 * _MS)
    """Without data, the time in which a limit falls from the maximum to the fail-safe limit."""
    deadband: Annotated[float, between(0, 0.2)] = 0.001
    """A smaller rise, as a share of [min, max], is not worth a patch; at most ``rise_per_second``."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside its range.
        """
        super().__post_init__()
        if self.deadband > self.rise_per_second:
            raise ValueError(
                f"deadband {self.deadband} is above rise_per_second {self.rise_per_second}: "
                "no rise would ever be large enough"
            )


class Domain(Settings, frozen=True):
    """One domain's configuration."""

    name: str
    """Name of the domain: a part of the bus's subjects."""
    critical: tuple[Critical, ...]
    """The workloads to protect; at least one."""
    targets: tuple[Target, ...] = ()
    """The workloads whose bandwidth is set; at least one, unless workloads may join by a label."""
    policy: str = "learned"
    """The policy that proposes limits."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the policy; each policy has its own."""
    shadow: tuple[str, ...] = ()
    """Policies that only report what they would do, beside the one that is live."""
    capacity: Rate | None = None
    """The bottleneck's nameplate capacity, where it is known: the targets' limits never add up to more.

    Of a ``per-pod`` target the limit of one pod counts.
    """
    shield: Shield = Shield()
    """The bounds that no policy can cross."""
    dead_man: Duration = Duration(5_000 * _MS)
    """A decision is good for this long; without a fresh one the actuator applies the fail-safe limit."""
    min_observations: Annotated[int, between(1)] = 100
    """A window with fewer latencies counts as no data: its P95 is not reliable."""
    enrol: Enrolment | None = None
    """Which workloads may join the targets by a label of their own; without it, none."""
    per: str | UnsetType = UNSET
    """`node`, or the key of a node's label such as `topology.kubernetes.io/zone`: each node (each value of the label)
    is a bottleneck of its own. The definition then stands for an instance for each one with Pods of its workloads."""
    of: str | UnsetType = UNSET
    """Sluice's own, of an instance: the definition that it is of."""
    on: str | UnsetType = UNSET
    """Sluice's own, of an instance: the node, or the value of the label."""
    nodes: tuple[str, ...] | UnsetType = UNSET
    """Sluice's own, of an instance by a label: the nodes with that value on which Pods of its workloads are."""

    @property
    def workloads(self) -> tuple[str, ...]:
        """The keys of all critical workloads and targets."""
        return (*(one.key for one in self.critical), *(one.key for one in self.targets))

    @property
    def is_template(self) -> bool:
        """Whether it stands for instances, and is not controlled itself."""
        return bool(self.per) and not self.on

    @property
    def places(self) -> tuple[str, ...] | None:
        """The nodes that an instance is about; None: wherever Pods of the workloads are."""
        if not self.on:
            return None
        return (self.on,) if self.per == PER_NODE else self.nodes or ()

    @property
    def place_key(self) -> str:
        """Tells the places of instances apart: the node, or the label and its value; empty where it is no instance."""
        if not self.on:
            return ""
        return self.on if self.per == PER_NODE else f"{self.per}={self.on}"

    def name_part(self, key: str) -> str:
        """Names what an instance has of a workload; ``key`` itself where it is no instance."""
        return f"{key}@{self.place_key}" if self.on else key

    def build_instance(self, on: str, nodes: tuple[str, ...]) -> "Domain":
        """A template's instance on a node, or with a value of its label on these nodes."""
        known = UNSET if self.per == PER_NODE else nodes
        return replace(self, name=f"{self.name}@{on}", of=self.name, on=on, nodes=known)

    def build_template(self) -> "Domain":
        """The definition that an instance is of."""
        return replace(self, name=self.of or self.name, of=UNSET, on=UNSET, nodes=UNSET)

    def _check_place(self) -> None:
        if self.per is not UNSET and self.per != PER_NODE and not LABEL_NAME.fullmatch(self.per):
            raise ValueError(f"domain {self.name!r}: per: {self.per!r} is neither {PER_NODE!r} nor the key of a label")
        if bool(self.of) != bool(self.on) or (self.on and not self.per):
            raise ValueError(f"domain {self.name!r}: of and on are an instance's, which needs per and both of them")
        if self.nodes is not UNSET and not self.on:
            raise ValueError(f"domain {self.name!r}: nodes is an instance's, which needs on")

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: nothing to protect or to control, a name used twice, or a number out of range.
        """
        super().__post_init__()
        self._check_place()
        if not self.critical or not (self.targets or self.enrol is not None):
            raise ValueError(f"domain {self.name!r}: needs at least one critical workload and one target, or enrol")
        for what, keys in (
            ("critical workload", [one.key for one in self.critical]),
            ("target", [one.key for one in self.targets]),
            ("policy", [self.policy, *self.shadow]),
        ):
            twice = find_repeated(keys)
            if twice:
                raise ValueError(f"domain {self.name!r}: {what} named twice: {', '.join(twice)}")
        fail_safe = Rate(sum(target.fail_safe for target in self.targets))
        if self.capacity is not None and fail_safe > self.capacity:
            raise ValueError(
                f"domain {self.name!r}: the fail-safe limits add up to {fail_safe}, "
                f"above the capacity of {self.capacity}"
            )

    def why_too_hasty(self, period: Duration) -> str | None:
        """Why ``dead_man`` is too short for samples that come every ``period``; None where it is not."""
        if self.dead_man >= 3 * period:
            return None
        return (
            f"domain {self.name!r}: dead_man {self.dead_man} is below three signal periods "
            f"of {period}: one late sample would set the fail-safe limit"
        )


def without_templates(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    """The domains that are controlled as they are: instances of the others come from the bus."""
    return tuple(domain for domain in domains if not domain.is_template)
