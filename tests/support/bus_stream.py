"""A generated stretch of bus messages for the tests of readers: samples, and the decisions that follow from them."""

import random
from collections.abc import Iterator
from pathlib import Path

from schemas.config import Config
from schemas.domain import Critical, Domain, Target
from schemas.messages import (
    Action,
    CriticalMeasure,
    Decision,
    PodOutcome,
    Sample,
    State,
    TargetDecision,
    TargetMeasure,
    encode,
)
from schemas.units import Rate
from services.bus.envelope import MSG_ID, SAMPLE_SEQ, TRACE, trace_message
from services.bus.subjects import Subjects
from services.control import Controller
from services.tools.common.recording import RecordedMessage, RecordingWriter, build_header, build_message

BEGIN = 1_790_000_000 * 10**9
PERIOD = 10**9 // 2
SUBJECTS = Subjects()


def config(domains: int = 1, policy: str = "proportional") -> Config:
    """Domains ``cell-0``, ``cell-1``... of one critical workload and two targets each."""
    return Config(
        tuple(
            Domain(
                f"cell-{i}",
                (Critical("robot-control", f"cell-{i}"),),
                (
                    Target(
                        deployment="telemetry-upload",
                        min=Rate(5_000),
                        max=Rate(90_000),
                        fail_safe=Rate(20_000),
                        namespace=f"cell-{i}",
                    ),
                    Target(
                        deployment="erp-dashboard",
                        min=Rate(1_000),
                        max=Rate(20_000),
                        fail_safe=Rate(5_000),
                        namespace=f"cell-{i}",
                    ),
                ),
                policy,
            )
            for i in range(domains)
        )
    )


def samples(domain: Domain, count: int, seed: int = 1, begin: int = BEGIN) -> Iterator[Sample]:
    """Good and congested windows, and some without data."""
    chance = random.Random(f"{domain.name} {seed}")
    for i in range(1, count + 1):
        end = begin + i * PERIOD
        scale = 4 if chance.random() < 0.1 else 1
        yield Sample(
            domain=domain.name,
            start=end - 4 * PERIOD,
            end=end,
            period=PERIOD,
            source="simulation",
            critical=tuple(
                CriticalMeasure(
                    one.key,
                    jitter=chance.uniform(0.0002, 0.001) * scale,
                    p95=chance.uniform(0.0005, 0.0015) * scale,
                    observations=500,
                    lost=0.0,
                    throughput=chance.randrange(20_000, 30_000),
                )
                for one in domain.critical
            ),
            targets=tuple(TargetMeasure(one.key, chance.randrange(1_000, 20_000)) for one in domain.targets),
            no_data="the exporter did not answer" if chance.random() < 0.05 else None,
        )


def stream(
    of: Config, count: int, seed: int = 1, *, actions: bool = False, begin: int = BEGIN
) -> Iterator[RecordedMessage]:
    """Samples, decisions and optionally actions of all domains, ordered by time."""
    limits: dict[str, int] = {}
    acted = 0
    controllers = {domain.name: Controller(domain) for domain in of.domains}
    states: dict[str, State] = {}
    seq = 0
    for row in zip(*(samples(domain, count, seed, begin) for domain in of.domains), strict=True):
        for sample in row:
            seq += 1
            yield sample_line(sample, seq)
            decision = controllers[sample.domain].step(states.get(sample.domain), sample)
            states[sample.domain] = decision.state
            line = decision_line(decision, seq, seq, sample.id)
            yield line
            for target in decision.targets if actions else ():
                if limits.get(target.target) != target.limit:
                    acted += 1
                    yield action_line(decision, line, target, limits.get(target.target), acted)
                    limits[target.target] = target.limit


def sample_line(sample: Sample, seq: int, published: int | None = None) -> RecordedMessage:
    """A sample as the sampler publishes it, by default 5 ms after its window."""
    headers = {MSG_ID: sample.id, TRACE: trace_message(sample.id, {})}
    subject = SUBJECTS.sample(sample.domain)
    return build_message("sample", subject, seq, published or sample.end + 5_000_000, headers, encode(sample))


def decision_line(
    decision: Decision, seq: int, sample_seq: int, cause: str, published: int | None = None
) -> RecordedMessage:
    """A decision as the decision service publishes it, by default 2 ms after its sample."""
    trace = trace_message(decision.id, {TRACE: trace_message(cause, {})})
    headers = {MSG_ID: decision.id, TRACE: trace, SAMPLE_SEQ: str(sample_seq)}
    subject = SUBJECTS.decision(decision.domain)
    return build_message("decision", subject, seq, published or decision.end + 7_000_000, headers, encode(decision))


def action_line(
    decision: Decision, cause: RecordedMessage, target: TargetDecision, was: int | None, seq: int
) -> RecordedMessage:
    """An action on three Pods, as an actuator reports it 20 ms after its decision."""
    done = cause.time + 20_000_000 + seq
    action = Action(
        id=f"{target.target}:decision:{decision.id}:{seq:x}",
        domain=decision.domain,
        target=target.target,
        cause="decision",
        outcome="applied",
        limit=target.limit,
        reason=decision.reason,
        decision=decision.id,
        epoch=decision.epoch,
        seq=decision.seq,
        was=was,
        pods=tuple(PodOutcome(f"pod-{i}", f"uid-{i}", "applied", target.limit // 3) for i in range(3)),
        sampled=decision.end,
        decided=cause.time,
        applied=done - 1_000_000,
    )
    msg_id = f"{action.id}:applied"
    headers = {MSG_ID: msg_id, TRACE: trace_message(msg_id, cause.headers)}
    return build_message("action", SUBJECTS.action(decision.domain, target.target), seq, done, headers, encode(action))


def record(path: Path, of: Config, lines: Iterator[RecordedMessage]) -> Path:
    """Write lines as a recording."""
    with path.open("wb") as file, RecordingWriter(file, build_header(of, "bus", "0.1.0", BEGIN)) as writer:
        for line in lines:
            writer.write(line)
    return path
