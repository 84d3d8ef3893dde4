"""A fleet under control: every node an instance, decided by the live control step, with failures and an upgrade.

    links.py -> sample of each node -> Controller.step -> limits -> links.py

A node that comes back is a new instance: it begins with what another instance of its definition learned, as live.
"""

from random import Random
from typing import Any

import numpy as np
from msgspec import Struct

from schemas.domain import Critical, Domain, Target
from schemas.inherited import Inherited
from schemas.messages import CriticalMeasure, Decision, Sample, State, TargetMeasure, encode
from schemas.units import Rate
from services.bench.fleet.links import NAMEPLATES, PERIOD_S, WINDOW, Links, Seen
from services.control import Controller

_S = 10**9
_START = 1_800_000_000 * _S
_PERIOD = round(PERIOD_S * _S)
_DOWN_S = 45.0
_AFTERMATH_S = 10.0
"""Seconds after a node came back that are counted apart."""
_ASKED = 8
_SETTLES_S = 60.0
"""The first minute, in which nobody has learned anything yet, is not judged."""


class Course(Struct, frozen=True):
    """What happens to the fleet."""

    seconds: int = 600
    failures_per_hour: float = 0.5
    """Of each node."""
    upgrade: bool = True
    """Whether every node restarts once, one after another, over the middle third."""
    flap_at: float | None = None
    """When the measurements of all nodes are missing for ten seconds."""


class Result(Struct):
    """What was seen of a fleet; sums, so that parts can be added."""

    nodes: int
    node_seconds: int = 0
    bad: int = 0
    """Node-seconds with the objective broken."""
    bad_after_start: int = 0
    """Of these, right after the node came (back)."""
    delivered: float = 0.0
    possible: float = 0.0
    changes: int = 0
    """Of a node's limit."""
    pod_patches: list[int] = []
    """Pods' annotations patched in each period."""
    starts: int = 0
    """Instances that began while the fleet ran."""
    own: int = 0
    """Node-seconds outside of those first ten seconds."""
    state_bytes: int = 0
    """Of one decision of each node at the end."""
    steps: int = 0


class Fleet:
    """A part of a fleet, in one process."""

    def __init__(self, nodes: int, seed: int, course: Course, *, warm: bool = True) -> None:
        """Prepare; ``warm``: whether new instances begin with what others learned."""
        self._course, self._warm = course, warm
        self._links = Links(nodes, seed)
        self._random = Random(seed)  # noqa: S311 - failures, not secrets
        self._controllers = [Controller(_build_domain(plate)) for plate in NAMEPLATES]
        self._states: list[State | None] = [None] * nodes
        self._last: list[Decision | None] = [None] * nodes
        self._down_until = np.zeros(nodes)
        self._came_at = np.zeros(nodes)
        self._limits = self._links.limit.copy()
        self._late = np.zeros(nodes)
        self._upgraded = 0
        self.result = Result(nodes)

    def run(self) -> Result:
        """Play the course."""
        for period in range(int(self._course.seconds / PERIOD_S)):
            self._fail(period)
            comes = self._links.churn()
            seen, truth = self._links.advance()
            self._judge(period, truth)
            self._decide(period, seen, comes)
        self.result.state_bytes = sum(len(encode(one)) for one in self._last if one is not None)
        return self.result

    def _fail(self, period: int) -> None:
        """Let nodes fail and come back."""
        now, course, nodes = period * PERIOD_S, self._course, self.result.nodes
        fails = {node for node in range(nodes) if self._random.random() < course.failures_per_hour * PERIOD_S / 3600}
        begin, end = course.seconds / 3, 2 * course.seconds / 3
        if course.upgrade and begin <= now < end:
            due = nodes * (now - begin) / (end - begin)
            while self._upgraded < due:
                fails.add(self._upgraded)
                self._upgraded += 1
        for node in fails:
            self._down_until[node] = now + _DOWN_S
            self._links.pods[node] = 0
        for back in np.flatnonzero((self._down_until > 0) & (self._down_until <= now)):
            node = int(back)
            self._down_until[node] = 0
            self._came_at[node] = now
            self._states[node] = None
            self._links.restart(node)
            self._limits[node] = self._links.limit[node]
            self.result.starts += 1

    def _judge(self, period: int, truth: dict[str, Any]) -> None:
        """Add every second's truth to the result."""
        if period * PERIOD_S < _SETTLES_S:
            return
        up = self._down_until == 0
        self.result.delivered += float(truth["delivered"][up].sum())
        self.result.possible += float(truth["room"][up].sum())
        self._late = truth["late"] + (self._late if period % 2 else 0) + (truth["lost"] > 0)
        if period % 2:
            bad = up & (self._late / 2 > 0.05)
            young = period * PERIOD_S - self._came_at < _AFTERMATH_S
            self.result.node_seconds += int(up.sum())
            self.result.bad += int(bad.sum())
            self.result.bad_after_start += int((bad & young).sum())
            self.result.own += int((up & ~young).sum())

    def _decide(self, period: int, seen: Seen, comes: Any) -> None:
        """Step every node that is up, and count the patches."""
        now, flap = period * PERIOD_S, self._course.flap_at
        blind = flap is not None and flap <= now < flap + 10
        end, patches = _START + (period + 1) * _PERIOD, 0
        seen_by_node = (seen.p95, seen.jitter, seen.p50, seen.lost, seen.load, seen.sent)
        columns = zip(*(column.tolist() for column in seen_by_node), strict=True)
        for node, row in enumerate(columns):
            if self._down_until[node] or period < WINDOW:
                continue
            controller = self._controllers[node % len(NAMEPLATES)]
            sample = _build_sample(controller.domain, end, row, int(self._links.pods[node]), blind=blind)
            inherited = self._inherit(node, controller) if self._states[node] is None else None
            decision = controller.step(self._states[node], sample, inherited=inherited)
            self._states[node], self._last[node] = decision.state, decision
            self.result.steps += 1
            limit = decision.targets[0].limit
            if limit != self._limits[node]:
                self._limits[node] = limit
                self.result.changes += 1
                patches += int(self._links.pods[node])
            else:
                patches += int(comes[node])
        self._links.set_limits(self._limits)
        self.result.pod_patches.append(patches)

    def _inherit(self, node: int, controller: Controller) -> Inherited | None:
        """What the decision service would let it begin with; see ``services.decision.siblings``."""
        if not self._warm:
            return None
        others = [one for one in range(node % len(NAMEPLATES), self.result.nodes, len(NAMEPLATES)) if one != node]
        asked = self._random.sample(others, min(len(others), _ASKED))
        found = [(one.link.safe, one) for other in asked if (one := self._last[other]) and one.link and one.link.met]
        found.sort(key=lambda one: one[0])
        if not found:
            return None
        _, middle = found[(len(found) - 1) // 2]
        return Inherited(controller.domain.name, middle.seq, middle.state.policy, middle.state.memory)


def _build_domain(plate: int) -> Domain:
    target = Target(deployment="shipper", min=Rate(plate // 100), max=Rate(plate), fail_safe=Rate(plate // 5))
    return Domain(f"uplink-{plate // 1000}M", (Critical("robot"),), (target,), capacity=Rate(plate))


def _build_sample(domain: Domain, end: int, row: tuple[float, ...], pods: int, *, blind: bool) -> Sample:
    start = end - WINDOW * _PERIOD
    if blind:
        return Sample(domain.name, start, end, _PERIOD, "simulation", no_data="the source is away")
    p95, jitter, p50, lost, load, sent = row
    critical = CriticalMeasure("default/robot", jitter, p95, 400, lost, int(load), recent=int(load), recent_p50=p50)
    target = TargetMeasure(domain.targets[0].key, int(sent), int(sent), pods)
    return Sample(domain.name, start, end, _PERIOD, "simulation", (critical,), (target,))
