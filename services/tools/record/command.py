"""``sluice record``: write a range of the bus to a file; or past metrics, as the samples they would have been.

Stored messages are selected by time or by sequence; arriving ones are recorded until the command is
stopped.  Each domain's last decision before the range goes in too, with the samples that were not yet
decided on: a replay begins in its state.
"""

import asyncio
import importlib.metadata
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from schemas.config import Config
from schemas.messages import encode
from services.bus import envelope
from services.bus.bus import Denied
from services.bus.subjects import KINDS, Subjects
from services.runtime import logging_setup, service
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ConfigFile, ResultFile
from services.sampler.loop import explain_blindness
from services.sampler.source import NoData
from services.sampler.workloads import metric_names
from services.tools.common.bus_reader import BusError, BusReader, MessageRange, connect_reader
from services.tools.common.message_source import require_domains
from services.tools.common.output import CommandError, TerminalConsole, print_line, print_warning
from services.tools.common.progress import ProgressCallback, show_progress
from services.tools.common.recording import RecordedMessage, RecordingWriter, build_header, build_message
from services.tools.common.time_options import DurationParam, TimeParam, require_order

_FLUSH_S = 1.0
_SETTLE_NS = 10**9


@dataclass(frozen=True)
class RecordRequest:
    """What the command line asks for, free of contradictions.  Times are UTC ns."""

    since: int | None
    until: int | None
    first: int | None
    """Sequence of the first sample."""
    last: int | None
    """Sequence of the last sample."""
    lasting: int | None
    """How long to go on recording, ns."""
    follow: bool
    domains: tuple[str, ...]
    url: str | None
    """Of the Prometheus to ask; None for the bus."""
    step: int | None
    """From one sample of Prometheus to the next, ns."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            click.UsageError: the text names them.
        """
        since, until, first, last = self.since, self.until, self.first, self.last
        if self.url is not None:
            if self.follow or self.lasting is not None or first is not None or last is not None:
                text = "--from-prometheus asks for the past: without --follow, --for, --from-seq and --to-seq"
                raise click.UsageError(text)
            if since is None:
                raise click.UsageError("--from-prometheus needs --start")
        begins = since is not None or first is not None
        contradictions = {
            "--since and --from-seq are two beginnings": since is not None and first is not None,
            "--until and --to-seq are two ends": until is not None and last is not None,
            "an end needs a beginning: --since or --from-seq": not begins and (until is not None or last is not None),
            f"--to-seq {last} is before --from-seq {first}": first is not None and last is not None and last < first,
            "--step goes with --from-prometheus": self.url is None and self.step is not None,
            "--follow goes on after --until, which is over": self.follow and (until or 2**63) <= time.time_ns(),
        }
        for text, found in contradictions.items():
            if found:
                raise click.UsageError(text)
        require_order(since, until)

    def is_behind(self, message: RecordedMessage) -> bool:
        """Whether a message is a sample after the last one asked for."""
        return self.last is not None and message.kind == "sample" and message.seq > self.last


class Recorder:
    """Writes messages to a recording, and counts them."""

    def __init__(self, writer: RecordingWriter) -> None:
        """Write to ``writer``."""
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.after: dict[str, int] = {}
        """By kind, the last stream sequence."""

    def write(self, message: RecordedMessage) -> None:
        """Write one message."""
        self._writer.write(message)
        self.counts[message.kind] += 1
        # Ordered by time, a stream's messages need not be in the order of its sequences.
        self.after[message.kind] = max(self.after.get(message.kind, 0), message.seq)

    async def flush_regularly(self) -> None:
        """Put what has arrived on disk every second, for ever: a crash costs no more than that."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._writer.flush()


@click.command("record")
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
@click.option("-o", "--output", type=ResultFile(), help="The file to write.")
@click.option("--since", "--start", "since", type=TimeParam(), help="From then on: 10m (ago), or a time.")
@click.option("--until", "--end", "until", type=TimeParam(), help="Up to then: 10m (ago), or a time; now without it.")
@click.option("--from-seq", "first", type=click.IntRange(1), help="From the sample with this stream sequence on.")
@click.option("--to-seq", "last", type=click.IntRange(1), help="Up to the sample with this stream sequence.")
@click.option("--for", "lasting", type=DurationParam(), help="Record what arrives for so long, such as 10m.")
@click.option("--follow", is_flag=True, help="Go on with what arrives after what is stored.")
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
@click.option("--from-prometheus", "url", help="Take the samples that past metrics of this Prometheus give.")
@click.option("--step", type=DurationParam(), help="With --from-prometheus: from one sample to the next.")
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(path: Path, output: Path | None, force: bool, **asked: object) -> None:
    """Record the bus to a file: what arrives, or what is stored.

    Without --since or --from-seq everything that arrives is recorded, until Ctrl-C.
    Exit code 1: there is no sample with the sequence that was asked for, or no sample of Prometheus has data.
    """
    request = RecordRequest(**asked)  # type: ignore[arg-type]
    output = output or Path(f"sluice-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl.zst")
    if output.exists() and not force:
        raise click.UsageError(f"{output} exists; --force overwrites it")
    logging_setup.configure("record", "error")
    try:
        config = load(path)
        require_domains(config.domains, request.domains)
        problem = None
        if request.url is not None:
            problem = _record_from_prometheus(config, request.url, request, output)
        else:
            service.run(_record_from_bus(config, request, output))
    except (BusError, Denied) as error:
        raise CommandError(error, ExitCode.UNAVAILABLE) from None
    except (ConfigError, OSError) as error:
        raise CommandError(error, ExitCode.UNREADABLE) from None
    if problem is not None:
        raise CommandError(problem, ExitCode.FINDING)


async def _record_from_bus(config: Config, request: RecordRequest, output: Path) -> None:
    async with connect_reader(config.bus, "reader") as reader:
        since, until = request.since, request.until
        if request.first is not None:
            since = await reader.find_sample_time(request.first)
            if since is None:
                raise CommandError(f"there is no sample with sequence {request.first} or above", ExitCode.FINDING)
        if request.last is not None:
            # The decision on the last sample comes before the next sample, and belongs to it.
            following = await reader.find_sample_time(request.last + 1)
            until = None if following is None else following - 1
        live = since is None or request.follow or request.lasting is not None
        ends_later = request.until is not None and request.until > time.time_ns()
        since = time.time_ns() if since is None else since
        scope = MessageRange(since=since, until=until, domains=request.domains)
        states = await reader.read_states_before(since, scope.domains)
        with _open_recording(config, output, "bus", since, request.domains) as recorder:
            for message in states:
                recorder.write(message)
            with show_progress("recording what is stored", (scope.until or time.time_ns()) - since) as update:
                async with aclosing(reader.read_stored(scope)) as messages:
                    async for message in messages:
                        if request.is_behind(message):
                            return  # stored since its time was asked for
                        recorder.write(message)
                        update(message.time - since)
            if live or ends_later:
                await _record_arriving(reader, scope, recorder, request)


@contextmanager
def _open_recording(config: Config, output: Path, origin: str, since: int, only: tuple[str, ...]) -> Iterator[Recorder]:
    """Open a new recording; at the end, say what is in it, or remove it where an error left it empty."""
    header = build_header(config, origin, importlib.metadata.version("sluice"), since, only)
    counts: Counter[str] = Counter()
    with output.open("wb") as file:
        try:
            with RecordingWriter(file, header) as writer:
                recorder = Recorder(writer)
                counts = recorder.counts
                yield recorder
        except Exception:
            if not counts and output.is_file():
                output.unlink()
            raise
        finally:
            if output.exists():
                kinds = ", ".join(f"{counts[kind]:,} {kind}s" for kind in KINDS if counts[kind])
                print_line(f"{output}: {kinds or 'no messages'}, {output.stat().st_size:,} bytes")


async def _record_arriving(reader: BusReader, scope: MessageRange, recorder: Recorder, request: RecordRequest) -> None:
    ends = [time.time_ns() + request.lasting] if request.lasting is not None else []
    # What was stored right before the end takes some time to arrive.
    ends += [scope.until + _SETTLE_NS] if scope.until is not None else []
    flushing = asyncio.create_task(recorder.flush_regularly())
    try:
        with TerminalConsole(stderr=True).status("recording what arrives; Ctrl-C ends it") as status:
            async with asyncio.timeout((min(ends) - time.time_ns()) / 1e9 if ends else None):
                async with aclosing(reader.follow(scope, recorder.after)) as messages:
                    async for message in messages:
                        if scope.until is not None and message.time > scope.until:
                            return
                        if request.is_behind(message):
                            return
                        recorder.write(message)
                        count = sum(recorder.counts.values())
                        status.update(reader.failure or f"recorded {count:,} messages; Ctrl-C ends it")
    except TimeoutError:
        pass
    finally:
        flushing.cancel()


def _record_from_prometheus(config: Config, url: str, request: RecordRequest, output: Path) -> str | None:
    """Record past metrics; gives what is wrong with them where not one sample has data."""
    # Prometheus's client is heavy, and only this needs it.
    from services.tools.record import backfill

    assert request.since is not None
    until = time.time_ns() if request.until is None else request.until
    try:
        adapted = backfill.adapt_config(config, url, request.step)
    except ValueError as error:
        raise click.UsageError(f"--from-prometheus: {error}") from None
    if (changes := backfill.describe_adaptation(config, adapted)) is not None:
        print_warning(changes)
    subjects = Subjects(config.bus.prefix)
    domains = {domain.name: domain for domain in adapted.domains}
    with_data, first_gap = 0, None

    async def record_samples(since: int, recorder: Recorder, update: ProgressCallback) -> None:
        nonlocal with_data, first_gap
        async for sample in backfill.read_samples(adapted, since, until):
            if not request.domains or sample.domain in request.domains:
                # As it would have been published at the end of its window.
                headers = {envelope.MSG_ID: sample.id, envelope.TRACE: envelope.trace_message(sample.id, {})}
                seq = recorder.counts["sample"] + 1
                subject = subjects.sample(sample.domain)
                recorder.write(build_message("sample", subject, seq, sample.end, headers, encode(sample)))
                gap = explain_blindness(domains[sample.domain], sample)
                with_data += gap is None
                first_gap = first_gap or gap
            update(sample.end - since)

    try:
        with (
            _open_recording(adapted, output, "prometheus", request.since, request.domains) as recorder,
            show_progress("asking Prometheus", until - request.since) as update,
        ):
            asyncio.run(record_samples(request.since, recorder, update))
    except (ValueError, NoData) as error:
        raise CommandError(f"{url}: {error}", ExitCode.UNAVAILABLE) from None
    if not recorder.counts:
        return f"{url}: the range holds no sample: one is due every {adapted.signal.period}"
    if with_data:
        return None
    return f"{url}: no sample has data from the histogram {metric_names(adapted.signal).metric}: {first_gap}"
