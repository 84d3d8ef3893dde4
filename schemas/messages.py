"""The messages on the bus, version 1.

``Sample -> Decision -> Action``, and the ``Definition`` of each domain.  They evolve by addition: a new field has a
default, a field never changes its type, unknown fields are ignored (but in a domain's configuration, which must not be
half understood).  Times are UTC nanoseconds, rates kbit/s, latencies seconds.  What depends on the wall clock (when it
was published, decided) is in the headers, so that the payload of a decision is a function of its inputs alone.

No message can be part of a reference cycle, so ``gc=False`` leaves it out of garbage collection.
"""

from math import inf
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from schemas.decode_errors import DECODE_ERRORS, describe_decode_error
from schemas.definition import Definition
from schemas.inherited import Inherited
from schemas.link import LinkEstimate
from schemas.numbers import Count, Integer, Load, Period, Rate, Time
from schemas.units import decode_unit, encode_unit

Outcome = Literal["applied", "unchanged", "skipped", "failed", "dry-run"]
Cause = Literal["decision", "drift", "new-pod", "rescale", "dead-man", "start", "restore"]
Rule = Literal["none", "clamp", "rise", "deadband", "cut", "hold", "no-data"]


class CriticalMeasure(Struct, frozen=True, omit_defaults=True, gc=False):
    """Measurements of one critical workload over one window."""

    workload: str
    """``namespace/workload``."""
    jitter: float | None = None
    """Q75 - Q25 of the L4 latency, seconds."""
    p95: float | None = None
    """95th percentile of the L4 latency, seconds."""
    observations: Count = 0
    """How many latencies the two rest on."""
    lost: float | None = None
    """Packets or probes lost in the window; None where nothing measures loss."""
    throughput: Load | None = None
    """Load the workload put on the bottleneck, kbit/s."""
    missing: str | None = None
    """Why there is no latency; None when there is."""
    recent: Load | None = None
    """``throughput`` over the last signal period alone; None where the source cannot tell."""
    recent_p50: float | None = None
    """Median of the L4 latency over the last signal period alone, seconds: shows whether there is a queue now."""
    throughput_missing: str | None = None
    """Why there is no throughput; None where there is, or where the source cannot tell why."""

    def why_unusable(self, min_observations: int) -> str | None:
        """Why the latency cannot be trusted, which makes the whole sample *no data*; None where it can."""
        if self.missing is not None:
            return self.missing
        jitter, p95 = self.jitter, self.p95
        if jitter is None or p95 is None:
            return "no latency"
        if not (0 <= jitter < inf and 0 <= p95 < inf):
            return f"latency is no number: jitter {jitter}, P95 {p95}"
        if self.observations < min_observations:
            return f"blind: {self.observations} observations, {min_observations} needed"
        return None


class TargetMeasure(Struct, frozen=True, omit_defaults=True, gc=False):
    """Measurements of one target over one window."""

    target: str
    """The target's key: ``namespace/deployment``, or ``namespace/kind/name``."""
    throughput: Load | None = None
    """What it sent, kbit/s, all replicas together."""
    recent: Load | None = None
    """The same over the last signal period alone; None where the source cannot tell."""
    pods: Count | None = None
    """How many pods that is; None where the source cannot tell."""
    throughput_missing: str | None = None
    """Why there is no throughput; None where there is, or where the source cannot tell why."""


class Sample(Struct, frozen=True, omit_defaults=True, gc=False):
    """One domain's measurements over one signal window, or the reason why there are none."""

    domain: str
    start: Time
    """Start of the signal window, UTC ns."""
    end: Time
    """End of the signal window, UTC ns; a whole multiple of the signal period."""
    period: Period
    """Time from one sample to the next, ns."""
    source: str
    """What measured: ``scrape``, ``prometheus``, ``simulation``."""
    critical: tuple[CriticalMeasure, ...] = ()
    targets: tuple[TargetMeasure, ...] = ()
    no_data: str | None = None
    """Why the whole window has no data; None if it has."""
    v: Integer = 1

    @property
    def id(self) -> str:
        """The same for the same window of the same domain, for every sampler."""
        return f"{self.domain}:{self.end}"


class TargetDecision(Struct, frozen=True, omit_defaults=True, gc=False):
    """One target's limit, and how it came about."""

    target: str
    """The target's key: ``namespace/deployment``, or ``namespace/kind/name``."""
    limit: Rate
    """The limit, kbit/s; for all replicas or for each one, by the target's scope."""
    proposal: Rate
    """What the policy asked for, kbit/s, before the shield."""
    rule: Rule
    """The shield's rule that decided."""
    was: Rate
    """The limit before, kbit/s."""


class ShieldMemory(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the shield remembers of one target."""

    limit: Rate
    """The limit last decided, kbit/s."""
    since: Time = 0
    """End of the sample at which the limit last changed, ns."""
    cut_until: Time = 0
    """Windows that start before this still see traffic from before the last cut, ns."""
    waiting: Rate = 0
    """A rise that the deadband keeps back, kbit/s: less than the deadband."""
    back: Rate = 0
    """The limit before the last cut, while no shared queue explains that cut, kbit/s; 0 otherwise."""


class InForce(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the actuator reported to be in force on one target."""

    limit: Rate
    """The lowest limit that may be in force, kbit/s."""
    unsettled: bool = False
    """Whether another limit is in force on a part of the target, or somebody else's value on the whole of it."""


class State(Struct, frozen=True, omit_defaults=True, gc=False):
    """All that the next step needs besides the next sample."""

    epoch: Time
    """The end of the first sample of an unbroken run of decisions, ns: larger after a bus was wiped."""
    seq: Count
    """Steps taken in this epoch; the first is 1."""
    end: Time
    """End of the last sample stepped on, ns."""
    shield: dict[str, ShieldMemory]
    """By target."""
    policy: str
    """Name and version of the policy that the memory belongs to."""
    memory: Any = None
    """The policy's own memory; its type is the policy's."""
    shadows: dict[str, Any] = {}
    """Memory of the policies in the shadow, by name and version."""
    demand: dict[str, Rate] = {}
    """What targets that leave part of their limit idle have a use for, kbit/s; the others want everything."""
    over: dict[str, Time] = {}
    """By target that sends more than its limit, since when, ns; what is not known takes no overrun back."""
    in_force: dict[str, InForce] = {}
    """What is in force by target, as far as it was reported; without a report it is taken to be what was decided."""


class ShadowDecision(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a shadow policy would have done at this step, from the limits in force."""

    policy: str
    """Name and version."""
    proposal: Rate
    """The budget it would ask for, kbit/s, all targets together."""
    limit: Rate
    """What the shield would make of it, kbit/s, all targets together."""
    reason: str
    """In words; why it gave no answer, where it raised an error."""


class Overrun(Struct, frozen=True, omit_defaults=True, gc=False):
    """A target that has sent more than its limit for longer than bursts explain: the limit is not enforced."""

    target: str
    """The target's key: ``namespace/deployment``, or ``namespace/kind/name``."""
    sent: Load
    """In the last period, kbit/s, all replicas together."""
    limit: Rate
    """What all replicas together may send, kbit/s."""
    since: Time
    """Since when it has sent more than that, UTC ns."""


class Decision(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to one sample: a limit for every target, and the state to go on from."""

    domain: str
    sample: str
    """Id of the sample it answers."""
    end: Time
    """End of that sample's window, UTC ns."""
    expires: Time
    """No actuator may apply it after this time, UTC ns."""
    targets: tuple[TargetDecision, ...]
    reason: str
    """In words: what was seen, and what the policy made of it."""
    state: State
    policy: str
    """Name and version of the policy that proposed."""
    stress: float | None = None
    """The worst ratio of a measured latency figure to its SLO; None without data."""
    violated: bool = False
    fault: str | None = None
    """Why the policy's proposal was replaced by the fallback's; an input on replay."""
    shadow: tuple[ShadowDecision, ...] = ()
    """What the policies in the shadow would have done."""
    link: LinkEstimate | None = None
    """What the policy knows of the bottleneck; None where it keeps no such estimate, or was not asked."""
    overruns: tuple[Overrun, ...] = ()
    """The targets whose limits are not enforced."""
    reported: dict[str, InForce | None] = {}
    """What was newly reported to be in force, by target; None: it is no longer known.  An input on replay."""
    definition: Count = 0
    """Revision of the definition that it was decided under; 0: the service's own file.  An input on replay."""
    inherited: Inherited | None = None
    """What a new instance began with; None where it began afresh, or is not new.  An input on replay."""
    v: Integer = 1

    @property
    def id(self) -> str:
        """Deterministic: the same sample under the same policy gives the same id."""
        return f"{self.sample}:{self.policy}"

    @property
    def epoch(self) -> int:
        """First half of the fence."""
        return self.state.epoch

    @property
    def seq(self) -> int:
        """Second half of the fence."""
        return self.state.seq

    def forbids_raise(self, target: TargetDecision) -> bool:
        """Whether a target's limit was decided without data or in violation: no ground for a raise."""
        return target.rule == "no-data" or self.violated or self.stress is None


class PodOutcome(Struct, frozen=True, omit_defaults=True, gc=False):
    """What happened to one Pod's annotation."""

    pod: str
    uid: str
    outcome: Outcome
    limit: Rate | None = None
    """The limit in force on the Pod, kbit/s."""
    error: str | None = None


class Action(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the actuator did to one target, and why."""

    id: str
    """Stable: a report repeated after a crash has the same id."""
    domain: str
    target: str
    """The target's key: ``namespace/deployment``, or ``namespace/kind/name``."""
    cause: Cause
    outcome: Outcome
    limit: Rate
    """The target's limit, kbit/s, clamped to the actuator's own bounds."""
    reason: str
    decision: str | None = None
    """Id of the decision; None where the cause is another."""
    epoch: Time = 0
    seq: Count = 0
    was: Rate | None = None
    """The limit found on the workload, kbit/s; None when there was none."""
    pods: tuple[PodOutcome, ...] = ()
    sampled: Time | None = None
    """End of the sample's window, UTC ns."""
    decided: Time | None = None
    """When the decision was published, UTC ns."""
    applied: Time | None = None
    """When the last patch was acknowledged, UTC ns."""
    partial: bool = False
    """Whether some of the target's objects do not have this limit yet."""
    paused: bool = False
    """Whether somebody else's value is in force, so that the target is left alone."""
    v: Integer = 1


class DeadLetter(Struct, frozen=True, omit_defaults=True, gc=False):
    """A message that could not be used, kept for inspection."""

    subject: str
    service: str
    reason: str
    body: str
    """The message's bytes, base64, at most 4 KiB of them."""
    seq: Count | None = None
    """Its sequence in the stream it came from."""
    v: Integer = 1


Message = Sample | Definition | Decision | Action | DeadLetter
M = TypeVar("M", Sample, Definition, Decision, Action, DeadLetter)
KINDS: dict[str, type[Message]] = {
    "sample": Sample,
    "definition": Definition,
    "decision": Decision,
    "action": Action,
    "dead": DeadLetter,
}


def _plain(value: Any) -> int:
    """Encode ``Rate`` and ``Duration``, integers that msgspec does not recognize as such."""
    if isinstance(value, int):
        return int(value)
    raise NotImplementedError(f"no encoder for {type(value)}")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_definition_encoder = msgspec.json.Encoder(enc_hook=encode_unit)
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, dec_hook=decode_unit) for kind in KINDS.values()
}


class InvalidMessage(ValueError):
    """A message that is not of the kind that its subject announces."""


def encode(message: Message) -> bytes:
    """The message as JSON."""
    return (_definition_encoder if type(message) is Definition else _encoder).encode(message)


def encode_into(message: Message, buffer: bytearray) -> None:
    """The message as JSON, in place of what is in ``buffer``: for many messages that are compared and not kept."""
    _encoder.encode_into(message, buffer)


class UnknownVersion(InvalidMessage):
    """A message of a build that is later than this one."""


class _Versioned(Struct):
    v: Integer = 1


def decode(kind: type[M], body: bytes) -> M:
    """Read a message of a known kind.

    Raises:
        UnknownVersion: of a version that this build does not know.
        InvalidMessage: not JSON, not of that kind, a number out of range, or a window that ends before it starts.
    """
    try:
        message: M = _decoders[kind].decode(body)
        version = message.v
    except DECODE_ERRORS as error:
        try:
            version = msgspec.json.decode(body, type=_Versioned).v
        except DECODE_ERRORS:
            version = 1
        if version == 1:
            raise InvalidMessage(f"not a {kind.__name__}: {describe_decode_error(error)}") from None
    if version != 1:
        raise UnknownVersion(f"{kind.__name__} of version {version}; this build reads version 1")
    if isinstance(message, Sample) and message.start >= message.end:
        raise InvalidMessage(f"not a Sample: its window ends at {message.end}, before it starts at {message.start}")
    if isinstance(message, Decision) and message.expires <= message.end:
        raise InvalidMessage(
            f"not a Decision: it expires at {message.expires}, before its sample's end at {message.end}"
        )
    if isinstance(message, Definition) and message.configuration.name != message.domain:
        raise InvalidMessage(
            f"not a Definition: of {message.domain!r}, and it configures {message.configuration.name!r}"
        )
    return message
