"""What a user configures of one domain: who is protected, and whose limit may move.

A *domain* is a set of workloads that share a bottleneck.  It is the unit of control: one sample
describes it, one decision answers, and its key orders the messages.
"""

from typing import Any, Literal

from msgspec import Struct, field

from schemas.units import Duration, Rate

_MS = 1_000_000


def _check_names(what: str, *names: str) -> None:
    """Names become parts of paths, keys and subjects.

    Raises:
        ValueError: one is empty, or holds a slash or a space.
    """
    for name in names:
        if not name or "/" in name or name.split() != [name]:
            raise ValueError(f"{what}: {name!r} is no name of a Kubernetes object")


class Critical(Struct, frozen=True, forbid_unknown_fields=True):
    """A critical workload and its service level objective on L4 latency; loss must be zero."""

    workload: str
    namespace: str = "default"
    jitter: Duration = Duration(2 * _MS)
    """Largest jitter: the interquartile range (Q75 - Q25) of the latency."""
    p95: Duration = Duration(2 * _MS)
    """Largest 95th percentile of the latency."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a name cannot be one.
        """
        _check_names("critical workload", self.workload, self.namespace)

    @property
    def key(self) -> str:
        """``namespace/workload``, as samples name it."""
        return f"{self.namespace}/{self.workload}"


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """A best-effort Deployment whose egress bandwidth Sluice sets."""

    deployment: str
    min: Rate
    max: Rate
    fail_safe: Rate
    """The limit that holds whenever nobody knows better; inside [min, max]."""
    namespace: str = "default"
    weight: int = 1
    scope: Literal["aggregate", "per-pod"] = "aggregate"
    """Whether limit, min, max and fail_safe are for all replicas together or for each one."""

    @property
    def key(self) -> str:
        """``namespace/deployment``, as samples, decisions and actions name it."""
        return f"{self.namespace}/{self.deployment}"

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: a name cannot be one, the bounds are out of order, or the weight is out of range.
        """
        _check_names("target", self.deployment, self.namespace)
        if not self.min <= self.fail_safe <= self.max:
            raise ValueError(
                f"target {self.key}: expected min <= fail_safe <= max, "
                f"got min {self.min}, fail_safe {self.fail_safe}, max {self.max}"
            )
        if not 1 <= self.weight <= 1000:
            raise ValueError(f"target {self.key}: weight {self.weight} is outside 1 to 1000")


class Shield(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds that no policy can cross, whatever it proposes."""

    rise_per_second: float = 0.2
    """Largest rise of a limit, as a share of [min, max] and per second of sample time."""
    cut: float = 0.5
    """After a violation a limit is at most this share of what it was, once per signal window."""
    settle: Duration = Duration(500 * _MS)
    """How long a cut takes to show in full, beyond the next sample: patch, and the bottleneck's queue to drain."""
    decay: Duration = Duration(5_000 * _MS)
    """Without data, the time in which a limit falls from the maximum to the fail-safe limit."""
    deadband: float = 0.001
    """A smaller rise, as a share of [min, max], is not worth a patch."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside its range.
        """
        for name, value, low, high in (
            ("rise_per_second", self.rise_per_second, 0.001, 1.0),
            ("cut", self.cut, 0.05, 0.95),
            ("deadband", self.deadband, 0.0, 0.2),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} {value} is outside {low} to {high}")
        if self.deadband > self.rise_per_second:
            raise ValueError(
                f"deadband {self.deadband} is above rise_per_second {self.rise_per_second}: "
                "no rise would ever be large enough"
            )


class Domain(Struct, frozen=True, forbid_unknown_fields=True):
    """One domain's configuration."""

    name: str
    critical: tuple[Critical, ...]
    targets: tuple[Target, ...]
    policy: str = "learned"
    parameters: dict[str, Any] = field(default_factory=dict)
    """Settings of the policy; each policy documents its own."""
    shadow: tuple[str, ...] = ()
    """Policies that only say what they would do, beside the one that is live."""
    capacity: Rate | None = None
    """The bottleneck's nameplate capacity, where it is known: the targets' limits never add up to more.

    Of a ``per-pod`` target the limit of one pod counts.
    """
    shield: Shield = Shield()
    dead_man: Duration = Duration(5_000 * _MS)
    """A decision is good for this long; without a fresh one the actuator applies the fail-safe limit."""
    min_observations: int = 100
    """Fewer latencies in a window say nothing reliable about its P95: no data."""

    def __post_init__(self) -> None:
        """Check what the types cannot say.

        Raises:
            ValueError: nothing to protect or to control, a name used twice, or a number out of range.
        """
        if not self.critical or not self.targets:
            raise ValueError(f"domain {self.name!r}: needs at least one critical workload and one target")
        for what, keys in (
            ("critical workload", [one.key for one in self.critical]),
            ("target", [one.key for one in self.targets]),
            ("policy", [self.policy, *self.shadow]),
        ):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"domain {self.name!r}: {what} named twice: {', '.join(twice)}")
        if self.min_observations < 1:
            raise ValueError(f"domain {self.name!r}: min_observations {self.min_observations} is below 1")
        fail_safe = Rate(sum(target.fail_safe for target in self.targets))
        if self.capacity is not None and fail_safe > self.capacity:
            raise ValueError(
                f"domain {self.name!r}: the fail-safe limits add up to {fail_safe}, "
                f"above the capacity of {self.capacity}"
            )
