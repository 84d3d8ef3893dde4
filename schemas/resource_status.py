"""The status of a domain's custom resource, as Kubernetes' users read it: figures are texts with their units."""

from typing import Literal

from msgspec import Struct

ConditionType = Literal["Ready", "Blind", "Violated", "Paused", "Enforced"]


class Condition(Struct, frozen=True, rename="camel"):
    """A condition of the domain: its status is True, False or Unknown."""

    type: ConditionType
    """What: Ready (the definition is in use), Blind (nothing is measured), Violated (an objective is not met), Paused
    (limits stay as they are), Enforced (every target has the limit that was decided)."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: str
    """Why, in one word."""
    message: str
    """Why, for people."""
    last_transition_time: str
    """When the status changed last, RFC 3339."""
    observed_generation: int = 0
    """The resource's generation that this is about."""


class CriticalStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A critical workload, measured over the last signal window."""

    namespace: str
    """Namespace of the workload."""
    workload: str
    """Name of the workload."""
    p95_objective: str
    """Largest 95th percentile of the latency."""
    jitter_objective: str
    """Largest jitter."""
    p95: str = ""
    """The 95th percentile of the latency; absent where there is none."""
    jitter: str = ""
    """The jitter; absent where there is none."""
    missing: str = ""
    """Why there is no latency."""


class LimitStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A target and its limit."""

    target: str
    """Its key, as on the bus: namespace/name for a Deployment."""
    limit: str = ""
    """The limit in force, bit/s."""
    use: str = ""
    """What it sends, bit/s, all Pods together."""
    rule: str = ""
    """The shield's rule that decided."""
    trouble: str = ""
    """Why its limit is not what was decided."""


class InstanceStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """An instance of a definition with `per`."""

    on: str
    """The node, or the value of the label."""
    state: str = ""
    """How it stands, in a word: Violated, NotEnforced, Blind, Waiting, Holds or NoCriticalPod."""
    stress: str = ""
    """Its worst latency as a share of the objective, in percent; absent where nothing is measured."""
    limit: str = ""
    """The limits in force added up, bit/s."""
    reason: str = ""
    """Why it stands so."""


class StateCount(Struct, frozen=True, rename="camel", omit_defaults=True):
    """How many instances stand in one way."""

    state: str
    """The word."""
    count: int = 0
    """How many."""


class RefusedWorkload(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A workload that would join by its label, and does not."""

    workload: str
    """Its key as a target: namespace/name for a Deployment."""
    reason: str = ""
    """Why."""


class ResourceStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """How a domain stands, written by the actuator in charge; at most once in five seconds."""

    observed_generation: int = 0
    """The resource's generation that this is about."""
    state: str = ""
    """How it stands, in a word: Holds, Violated, Blind, Paused, NotEnforced, Waiting, NoCriticalPod or Refused."""
    policy: str = ""
    """Name and version of the policy that decided."""
    p95: str = ""
    """The 95th percentile of the critical workload that is closest to its objective, or furthest beyond."""
    objective: str = ""
    """What it may be at most."""
    jitter: str = ""
    """The jitter of the critical workload that is closest to its objective, or furthest beyond."""
    limit: str = ""
    """What the targets may send, all limits in force added up, bit/s; of a per-pod target that of one Pod counts."""
    use: str = ""
    """What the targets send, bit/s."""
    reason: str = ""
    """Why the last limits are what they are."""
    critical: tuple[CriticalStatus, ...] = ()
    """The critical workloads."""
    targets: tuple[LimitStatus, ...] = ()
    """The targets."""
    instances: tuple[StateCount, ...] = ()
    """Of a definition with `per`: its instances by state, the worst state first."""
    worst: tuple[InstanceStatus, ...] = ()
    """Of a definition with `per`: the ten instances that stand worst."""
    refused: tuple[RefusedWorkload, ...] = ()
    """The workloads that would join by their label, and do not; at most 50."""
    conditions: tuple[Condition, ...] = ()
    """What is so, and since when."""
