"""What-if: another policy, other parameters or objectives on the samples that were recorded.

The replay runs inside this process and lets other work run in between.  The recorded plant does not react: the
answer says which limits would have been set, and never what latency they would have caused.
"""

import asyncio
import time
from contextlib import aclosing

import msgspec
from msgspec import structs

from schemas.domain import Critical, Domain
from schemas.messages import Decision, Sample
from schemas.reference import describe
from schemas.units import Duration
from services.control import POLICIES
from services.tools.common.bus_reader import MessageRange
from services.tools.replay.comparison import CAVEAT, PolicyRun, PolicyStatistics
from services.tools.report.downsampling import Curve
from services.tools.report.statistics import DomainStatistics
from services.ui.history import build_all, build_span, view_objectives
from services.ui.sources import NotThere, PageSource, read_messages
from services.ui.views import (
    Objective,
    Policies,
    PolicyFigures,
    PolicyView,
    WhatIf,
    WhatIfAnswer,
)

_MOST_SAMPLES = 200_000
_TURN = 200
"""Samples after which other work runs."""


class TooLong(ValueError):
    """The range has more samples than an answer within seconds allows."""


def list_policies() -> Policies:
    """List the policies with the defaults of their parameters."""
    found = []
    for name, kind in sorted(POLICIES.items()):
        parameters = msgspec.to_builtins(kind.parameters_type(), enc_hook=str)
        meanings = {field.name: field.meaning for field in describe(kind.parameters_type)}
        found.append(PolicyView(name, kind.version, parameters, meanings))
    return Policies(found)


def change_domain(domain: Domain, asked: WhatIf) -> Domain:
    """Return the domain with the policy, parameters and objectives that are asked for.

    Raises:
        ValueError: no such policy, a parameter that it does not take, or a workload that the domain does not have.
    """
    objectives = {one.workload: one for one in asked.objectives}
    if unknown := objectives.keys() - {one.key for one in domain.critical}:
        raise ValueError(f"domain {domain.name!r} has no critical workload {min(unknown)!r}")
    critical = tuple(change_objective(one, objectives.get(one.key)) for one in domain.critical)
    policy = asked.policy or domain.policy
    parameters = asked.parameters or (domain.parameters if policy == domain.policy else {})
    return structs.replace(domain, critical=critical, policy=policy, parameters=parameters, shadow=())


def change_objective(critical: Critical, asked: Objective | None) -> Critical:
    """Return the workload with the objectives that are asked for."""
    if asked is None:
        return critical
    p95 = critical.p95 if asked.p95 is None else Duration(round(asked.p95 * 1e6))
    jitter = critical.jitter if asked.jitter is None else Duration(round(asked.jitter * 1e6))
    return structs.replace(critical, p95=p95, jitter=jitter)


class _Replay:
    """One pass: the recorded decisions, and those that are made instead."""

    def __init__(self, domain: Domain, period: int) -> None:
        self.run = PolicyRun(domain)
        self.recorded = PolicyStatistics()
        self.limits: dict[str, Curve] = {}
        self.statistics = DomainStatistics(domain.name, domain, period)
        self.samples = 0

    def add_sample(self, sample: Sample, published: int) -> None:
        self.samples += 1
        decision = self.run.step(sample, published)
        for one in decision.targets if decision is not None else ():
            self.limits.setdefault(one.target, Curve()).add(sample.end, one.limit)

    def add_decision(self, decision: Decision) -> None:
        total = self.recorded.add(decision)
        if self.run.statistics.samples:
            self.run.compare_limits(decision.end, total)
        else:
            self.run.restore(decision.state)


async def replay(source: PageSource, asked: WhatIf, begin: int, end: int) -> WhatIfAnswer:
    """Replay one domain from ``begin`` to ``end``, UTC ns, under what is asked for.

    Raises:
        NotThere: the source's configuration does not have the domain.
        TooLong: the range has more than 200,000 samples.
        ValueError: what is asked for cannot be.
    """
    known = next((one for one in source.list_domains(end) if one.name == asked.domain), None)
    if known is None:
        raise NotThere(f"the configuration of domain {asked.domain!r} is not known: a replay needs it")
    domain, began = change_domain(known, asked), time.monotonic()
    pass_ = _Replay(domain, source.period)
    scope = MessageRange(("sample", "decision"), begin, end, (domain.name,))
    async with aclosing(read_messages(source, scope)) as messages:
        async for message, line in messages:
            if isinstance(message, Sample):
                pass_.statistics.add_sample(message, line)
                pass_.add_sample(message, line.time)
                if pass_.samples > _MOST_SAMPLES:
                    raise TooLong(f"over {_MOST_SAMPLES:,} samples: choose a shorter time")
                if pass_.samples % _TURN == 0:
                    await asyncio.sleep(0)
            elif isinstance(message, Decision):
                pass_.statistics.add_decision(message, line)
                pass_.add_decision(message)
    return build_answer(pass_, known, domain, time.monotonic() - began)


def build_answer(done: _Replay, known: Domain, domain: Domain, took: float) -> WhatIfAnswer:
    """Build the answer from what a replay found."""
    statistics = done.statistics
    version = POLICIES[domain.policy].version
    replayed = done.run.statistics
    return WhatIfAnswer(
        policy=version,
        recorded=list(build_all("limit", statistics.limits)),
        replayed=list(build_all("limit", done.limits)),
        measured=[*build_all("p95", statistics.p95), *build_all("jitter", statistics.jitter)],
        figures=[
            _build_figures(f"as recorded ({', '.join(statistics.policies) or known.policy})", done.recorded),
            _build_figures(f"what if ({version})", replayed, compared=True),
        ],
        objectives=view_objectives(domain),
        broken=[build_span(one) for one in statistics.broken.kept],
        caveat=CAVEAT,
        took=round(took, 3),
    )


def _build_figures(title: str, one: PolicyStatistics, *, compared: bool = False) -> PolicyFigures:
    return PolicyFigures(
        title=title,
        samples=one.samples,
        broken=one.violated,
        blind=one.blind,
        mean=one.mean,
        lowest=one.lowest,
        highest=one.highest,
        changes=one.changes,
        cuts=one.cuts,
        shielded=one.shielded,
        above=one.above / one.samples if compared and one.samples else None,
        below=one.below / one.samples if compared and one.samples else None,
    )
