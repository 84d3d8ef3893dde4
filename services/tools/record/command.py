"""``sluice record``: write a stretch of the bus to a file; or past metrics, as the samples they would have been.

What is stored on the bus can be had by time or by sequence; what arrives is recorded until it is
stopped.  Each domain's last decision before the stretch goes in too: a replay begins in its state.
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
from rich.console import Console

from schemas.config import Config
from schemas.messages import Sample, encode
from services.bus import envelope
from services.bus.bus import Denied
from services.bus.subjects import KINDS, Subjects
from services.runtime import logging_setup, service
from services.runtime.config_loader import ConfigError, load
from services.tools.common.bus_reader import BusError, Stretch, Tap, opened
from services.tools.common.message_source import check_domains
from services.tools.common.progress import Told, bar
from services.tools.common.recording import Line, Writer, header_of, line_of
from services.tools.common.time_options import Moment, Span

_FLUSH_S = 1.0
_SETTLE_NS = 10**9


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.  Times are UTC ns."""

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


class Recorder:
    """A recording in the making."""

    def __init__(self, writer: Writer) -> None:
        """Write to ``writer``."""
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.after: dict[str, int] = {}
        """By kind, the last stream sequence."""

    def write(self, line: Line) -> None:
        """Keep one message."""
        self._writer.write(line)
        self.counts[line.kind] += 1
        # By time, a stream's messages need not be in the order of its sequences.
        self.after[line.kind] = max(self.after.get(line.kind, 0), line.seq)

    async def flush(self) -> None:
        """Put what has come on disk, again and again: a crash costs a second."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._writer.flush()


@click.command("record")
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration file.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
@click.option("--since", "--start", "since", type=Moment(), help="From then on: 10m (ago), or a time.")
@click.option("--until", "--end", "until", type=Moment(), help="Up to then: 10m (ago), or a time; now without it.")
@click.option("--from-seq", "first", type=click.IntRange(1), help="From the sample with this stream sequence on.")
@click.option("--to-seq", "last", type=click.IntRange(1), help="Up to the sample with this stream sequence.")
@click.option("--for", "lasting", type=Span(), help="Record what arrives for so long, such as 10m.")
@click.option("--follow", is_flag=True, help="Go on with what arrives after what is stored.")
@click.option("--domain", "domains", multiple=True, help="Only this domain; may be given again.")
@click.option("--from-prometheus", "url", help="Take the samples that past metrics of this Prometheus give.")
@click.option("--step", type=Span(), help="With --from-prometheus: from one sample to the next.")
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def command(path: Path, output: Path | None, url: str | None, step: int | None, force: bool, **asked: object) -> None:
    """Record the bus to a file: what arrives, or what is stored.

    Without --since or --from-seq everything that arrives is recorded, until Ctrl-C.
    """
    wanted = Wanted(**asked)  # type: ignore[arg-type]
    _check(wanted, url, step)
    output = output or Path(f"sluice-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl.zst")
    if output.exists() and not force:
        raise click.ClickException(f"{output} exists; --force overwrites it")
    logging_setup.configure("record", "error")
    try:
        config = load(path)
        check_domains(config.domains, wanted.domains)
        if url is not None:
            _from_prometheus(config, url, step, wanted, output)
        else:
            _from_bus(config, wanted, output)
    except (ConfigError, BusError, Denied, OSError) as error:
        raise click.ClickException(str(error)) from None


def _check(wanted: Wanted, url: str | None, step: int | None) -> None:
    """Refuse what does not go together.

    Raises:
        click.UsageError: in words.
    """
    if url is None:
        if wanted.since is None and wanted.first is None and (wanted.until is not None or wanted.last is not None):
            raise click.UsageError("an end needs a beginning: --since or --from-seq")
        if step is not None:
            raise click.UsageError("--step goes with --from-prometheus")
        return
    if wanted.since is None:
        raise click.UsageError("--from-prometheus needs --start")
    if wanted.follow or wanted.lasting is not None or wanted.first is not None or wanted.last is not None:
        raise click.UsageError("--from-prometheus asks for the past: without --follow, --for, --from-seq and --to-seq")


def _from_bus(config: Config, wanted: Wanted, output: Path) -> None:
    service.run(_record(config, wanted, output))


@contextmanager
def _recording(config: Config, output: Path, origin: str, since: int, only: tuple[str, ...]) -> Iterator[Recorder]:
    header = header_of(config, origin, importlib.metadata.version("sluice"), since, only)
    with output.open("wb") as file:
        written: Counter[str] = Counter()
        try:
            with Writer(file, header) as writer:
                recorder = Recorder(writer)
                written = recorder.counts
                yield recorder
        except Exception:
            if not written and output.is_file():
                output.unlink()
            raise
        finally:
            if output.exists():
                counts = ", ".join(f"{written[kind]:,} {kind}s" for kind in KINDS if written[kind])
                click.echo(f"{output}: {counts or 'no messages'}, {output.stat().st_size:,} bytes")


async def _record(config: Config, wanted: Wanted, output: Path) -> None:
    async with opened(config.bus, "reader") as tap:
        live = wanted.since is None and wanted.first is None
        what = await _stretch(tap, wanted)
        coming = wanted.until is not None and wanted.until > time.time_ns()
        since = what.since or 0
        before = await tap.before(since, what.domains)
        with _recording(config, output, "bus", since, wanted.domains) as recorder:
            for line in before:
                recorder.write(line)
            await _stored(tap, what, recorder)
            if live or wanted.follow or wanted.lasting is not None or coming:
                await _followed(tap, what, recorder, wanted)


async def _stretch(tap: Tap, wanted: Wanted) -> Stretch:
    since = wanted.since
    until = wanted.until
    if wanted.first is not None:
        found = await tap.sample_time(wanted.first)
        if found is None:
            raise BusError(f"there is no sample with sequence {wanted.first} or above")
        since = found
    if wanted.last is not None:
        # The decision on the last sample comes before the next sample, and belongs to it.
        following = await tap.sample_time(wanted.last + 1)
        until = None if following is None else following - 1
    return Stretch(since=time.time_ns() if since is None else since, until=until, domains=wanted.domains)


async def _stored(tap: Tap, what: Stretch, recorder: Recorder) -> None:
    begin = what.since or 0
    with bar("recording what is stored", (what.until or time.time_ns()) - begin) as told:
        async with aclosing(tap.stored(what)) as lines:
            async for line in lines:
                recorder.write(line)
                told(line.time - begin)


async def _followed(tap: Tap, what: Stretch, recorder: Recorder, wanted: Wanted) -> None:
    ends = [time.time_ns() + wanted.lasting] if wanted.lasting is not None else []
    # What was stored right before the end takes a moment to come here.
    ends += [what.until + _SETTLE_NS] if what.until is not None else []
    console = Console(stderr=True)
    flushing = asyncio.create_task(recorder.flush())
    try:
        with console.status("recording what arrives; Ctrl-C ends it") as status:
            async with asyncio.timeout((min(ends) - time.time_ns()) / 1e9 if ends else None):
                async with aclosing(tap.followed(what, recorder.after)) as lines:
                    async for line in lines:
                        if _beyond(line, what, wanted):
                            return
                        recorder.write(line)
                        counts = sum(recorder.counts.values())
                        status.update(tap.trouble or f"recorded {counts:,} messages; Ctrl-C ends it")
    except TimeoutError:
        pass
    finally:
        flushing.cancel()


def _beyond(line: Line, what: Stretch, wanted: Wanted) -> bool:
    """Whether what was asked for has ended; the decision on the last sample comes before the next sample."""
    if what.until is not None and line.time > what.until:
        return True
    return wanted.last is not None and line.kind == "sample" and line.seq > wanted.last


def _from_prometheus(config: Config, url: str, step: int | None, wanted: Wanted, output: Path) -> None:
    # Prometheus's client is heavy, and only this needs it.
    from services.tools.record import backfill

    assert wanted.since is not None
    until = time.time_ns() if wanted.until is None else wanted.until
    try:
        then = backfill.as_of_then(config, url, step)
        if (changes := backfill.adapted(config, then)) is not None:
            click.echo(changes, err=True)
        with (
            _recording(then, output, "prometheus", wanted.since, wanted.domains) as recorder,
            bar("asking Prometheus", until - wanted.since) as told,
        ):
            asyncio.run(_asked(then, wanted, until, recorder, told))
    except (ValueError, backfill.NoData) as error:
        raise click.ClickException(f"{url}: {error}") from None


async def _asked(config: Config, wanted: Wanted, until: int, recorder: Recorder, told: Told) -> None:
    from services.tools.record import backfill

    assert wanted.since is not None
    subjects = Subjects(config.bus.prefix)
    seq = 0
    async for sample in backfill.samples(config, wanted.since, until):
        if not wanted.domains or sample.domain in wanted.domains:
            seq += 1
            recorder.write(_line(subjects, sample, seq))
        told(sample.end - wanted.since)


def _line(subjects: Subjects, sample: Sample, seq: int) -> Line:
    """A sample as it would have been published at the end of its window."""
    headers = {envelope.MSG_ID: sample.id, envelope.TRACE: envelope.start_trace(sample.id)}
    return line_of("sample", subjects.sample(sample.domain), seq, sample.end, headers, encode(sample))
