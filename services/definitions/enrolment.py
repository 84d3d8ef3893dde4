"""Workloads that join a domain by a label of their own.  Pure.

    sluice.dev/domain: line   on a workload, and ``enrol`` in the domain ``line`` or ``NAMESPACE/line``

The domain says who may join and within which bounds.  Annotations on the workload narrow them for it alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

from schemas.domain import Domain, Enrolment, Target
from schemas.units import Rate
from schemas.workloads import KINDS, WorkloadRef

LABEL = "sluice.dev/domain"
"""The label that names the domain, without its namespace."""
_PREFIX = "sluice.dev/"
_FIELDS = {"min": "min", "max": "max", "fail-safe": "fail_safe", "weight": "weight", "scope": "scope"}
"""A target's fields, by the annotations that set them."""
MOST_TARGETS = 500
"""A domain has no more where workloads join: one decision names all of them."""

Place = tuple[str, str]
"""A kind, and a namespace."""


class Applicant(Struct, frozen=True):
    """A workload with the label."""

    kind: str
    namespace: str
    name: str
    wanted: str
    """The label's value."""
    settings: tuple[tuple[str, str], ...] = ()
    """Its annotations about bounds, in order."""

    @property
    def place(self) -> Place:
        """Where it was listed."""
        return self.kind, self.namespace

    @property
    def key(self) -> str:
        """Names it as a target."""
        return WorkloadRef(KINDS[self.kind], self.kind, self.namespace, self.name).key

    @classmethod
    def read(
        cls, kind: str, namespace: str, name: str, labels: Mapping[str, str], notes: Mapping[str, str]
    ) -> "Applicant | None":
        """The applicant that a workload is; None without the label."""
        wanted = labels.get(LABEL)
        if wanted is None:
            return None
        found = sorted((one, notes[f"{_PREFIX}{one}"]) for one in _FIELDS if f"{_PREFIX}{one}" in notes)
        return cls(kind, namespace, name, wanted, tuple(found))


def label_of(domain: str) -> str:
    """The value of the label that names a domain."""
    return domain.rpartition("/")[2]


def find_places(domain: Domain) -> set[Place]:
    """Where the workloads are that may join a domain."""
    enrol = domain.enrol
    return set() if enrol is None else {(kind, place) for kind in enrol.kinds for place in enrol.namespaces}


def build_target(enrol: Enrolment, applicant: Applicant) -> Target:
    """The target that an applicant becomes.

    Raises:
        ValueError: its annotations ask for what the domain does not give.
    """
    asked = {_FIELDS[name]: _read_setting(name, text) for name, text in applicant.settings}
    settings: dict[str, Any] = {field: getattr(enrol, field) for field in _FIELDS.values()} | asked
    if "fail_safe" not in asked:
        # Whoever narrows the bounds need not repeat what follows from them.
        settings["fail_safe"] = Rate(min(max(settings["fail_safe"], settings["min"]), settings["max"]))
    for name, field in _FIELDS.items():
        low, high = (1, enrol.weight) if field == "weight" else (enrol.min, enrol.max)
        if field != "scope" and not low <= settings[field] <= high:
            raise ValueError(f"{_PREFIX}{name} {settings[field]} is outside of what the domain gives: {low} to {high}")
    if applicant.kind == "Deployment":
        return Target(namespace=applicant.namespace, deployment=applicant.name, **settings)
    return Target(namespace=applicant.namespace, kind=applicant.kind, name=applicant.name, **settings)


def _read_setting(name: str, text: str) -> Any:
    """The value of an annotation about bounds.

    Raises:
        ValueError: it is none.
    """
    value: Any = text if text in ("aggregate", "per-pod") else None
    if name == "weight":
        value = int(text) if text.isdecimal() else None
    elif name != "scope":
        try:
            return Rate.parse(text)
        except ValueError as error:
            raise ValueError(f"{_PREFIX}{name}: {error}") from None
    if value is None:
        expected = "a whole number" if name == "weight" else "aggregate or per-pod"
        raise ValueError(f"{_PREFIX}{name}: {text!r} is not {expected}")
    return value


def join(
    domain: Domain, applicants: Iterable[Applicant], remembered: Iterable[Target], owners: Mapping[str, str]
) -> tuple[Domain | None, dict[str, str]]:
    """Add to a domain the workloads that join it.

    Args:
        domain: as its source defines it.
        applicants: those that name it and are where it looks for them.
        remembered: targets that it had when it was published last, which the API server has not reported yet.
        owners: by target that another domain has, which.

    Returns:
        The domain as it holds, without ``enrol``; None: it has no target yet.  And by applicant's key, why it may not.
    """
    enrol = domain.enrol
    if enrol is None:
        return domain, {}
    targets = {one.key: one for one in domain.targets}
    room = None if domain.capacity is None else domain.capacity - sum(one.fail_safe for one in domain.targets)
    refused: dict[str, str] = {}
    candidates: dict[str, Applicant | Target] = {one.key: one for one in remembered}
    candidates |= {one.key: one for one in applicants}
    for key, one in sorted(candidates.items()):
        if key in targets:
            continue  # named in the definition: its bounds there hold
        if key in owners:
            refused[key] = f"it belongs to domain {owners[key]!r} already"
            continue
        try:
            target = one if isinstance(one, Target) else build_target(enrol, one)
        except ValueError as error:
            refused[key] = str(error)
            continue
        if len(targets) >= MOST_TARGETS:
            refused[key] = f"the domain has {MOST_TARGETS} targets already"
        elif room is not None and target.fail_safe > room:
            refused[key] = f"the fail-safe limits would add up to more than the capacity of {domain.capacity}"
        else:
            targets[key] = target
            room = None if room is None else room - target.fail_safe
    if not targets:
        return None, refused
    return structs.replace(domain, targets=tuple(targets.values()), enrol=None), refused
