"""The setting of ``sluice bench uplinks``: two nodes whose uplinks differ, and the workloads spread over both.

Each node has its own robot and scanner, which are critical, and an upload of its own of each target: the Deployment's
Pods are two and one, the DaemonSet's one each.  Each uplink has an oracle of its own, as in any scenario.
"""

from msgspec import UNSET, Struct
from msgspec.structs import replace

from schemas.domain import Domain
from schemas.units import Rate
from services.plant.scenario import Event, Scenario
from services.plant.topology import ERP, SCANNER, TELEMETRY
from services.plant.workloads import Apps, TargetApp

LARGEST = 100_000
"""Of the uplinks, kbit/s."""
_FAIL_SAFE = 8_000
"""Of each target, kbit/s: safe on either node."""
LEARNING_S = 60.0
"""Until then a policy may still be learning."""


class Uplink(Struct, frozen=True):
    """One node, and what happens behind its uplink."""

    node: str
    scenario: Scenario


def build_uplinks(seconds: float = 240.0, *, surprise: bool = True) -> tuple[Uplink, ...]:
    """The two nodes; with ``surprise`` the scanners' load doubles without warning at half of the time."""
    return tuple(
        Uplink(node, _build_scenario(node, share, uploads, seconds, surprise=surprise))
        for node, share, uploads in (("node-1", 1.0, 2), ("node-2", 0.4, 1))
    )


def _build_scenario(node: str, share: float, uploads: int, seconds: float, *, surprise: bool) -> Scenario:
    targets = (TargetApp(TELEMETRY, replicas=uploads), TargetApp(ERP, flows=2))
    apps = Apps(targets=targets).scale(share)
    load = next(one.load for one in apps.critical if one.workload == SCANNER)
    events = (
        Event(at=seconds / 2 + 0.3, loads={SCANNER: 2 * load}, unpredicted=True),
        Event(at=seconds * 3 / 4, loads={SCANNER: load}),
    )
    return Scenario(
        name="two-uplinks",
        text=f"{node}, {share * LARGEST / 1000:g} Mbit/s",
        seconds=seconds,
        apps=apps,
        events=events if surprise else (),
        learning=LEARNING_S,
    )


def build_template(policy: str = "learned", *, daemon_set: bool = False) -> Domain:
    """One definition for both nodes: it does not know which uplink is the smaller one.

    The model has no kinds of workloads; on an API server the second target is a DaemonSet.
    """
    domain = build_uplinks()[0].scenario.domain(policy)
    as_daemon_set = {"deployment": None, "kind": "DaemonSet", "name": ERP.rpartition("/")[2]}
    targets = tuple(
        replace(
            one,
            min=Rate(400),
            max=Rate(LARGEST),
            fail_safe=Rate(_FAIL_SAFE),
            **(as_daemon_set if daemon_set and one.key == ERP else {}),
        )
        for one in domain.targets
    )
    return replace(domain, targets=targets, capacity=Rate(LARGEST), per="node")


def build_even(policy: str = "learned", *, daemon_set: bool = False) -> Domain:
    """The same without ``per``: one limit for all Pods of a target, divided evenly among them."""
    template = build_template(policy, daemon_set=daemon_set)
    total = sum(one.scenario.apps.capacity for one in build_uplinks())
    targets = tuple(replace(one, max=Rate(total), fail_safe=Rate(2 * _FAIL_SAFE)) for one in template.targets)
    return replace(template.build_template(), targets=targets, capacity=Rate(total), per=UNSET)
