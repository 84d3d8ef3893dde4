"""Past metrics as a stream of samples: what Sluice would have seen, had it been installed then.

The sampler's own queries are evaluated over a range of the past, so that a user can try policies on
last week's data before anything is installed.
"""

from collections.abc import AsyncIterator

from msgspec import structs

from schemas.config import Config
from schemas.messages import Sample
from schemas.units import Duration
from services.sampler.loop import build_sample
from services.sampler.source_factory import open_source

_POINTS = 500
"""Windows asked for at once: far below Prometheus's limit of 11,000 points a series."""
_TIMEOUT = Duration(60 * 10**9)


def adapt_config(config: Config, url: str, step: int | None) -> Config:
    """Adapt a configuration to a Prometheus that is sampled every ``step`` ns.

    What is kept of the past is often coarser than a live signal.  So a window that does not fit becomes
    four steps or scrape intervals long, and a dead-man time at least three steps.
    """
    prometheus = structs.replace(config.signal.prometheus, url=url)
    period = config.signal.period if step is None else Duration(step)
    window, least = config.signal.window, prometheus.shortest_window
    if window % period or window < least:
        window = Duration(max(4, -(-least // period)) * period)
    signal = structs.replace(
        config.signal, source="prometheus", period=period, window=window, timeout=_TIMEOUT, prometheus=prometheus
    )
    domains = tuple(
        structs.replace(domain, dead_man=Duration(max(domain.dead_man, 3 * period))) for domain in config.domains
    )
    return structs.replace(config, signal=signal, domains=domains)


def describe_adaptation(config: Config, adapted: Config) -> str | None:
    """Describe what ``adapt_config`` changed of windows and dead-man times; None where it changed nothing."""
    parts = []
    if adapted.signal.window != config.signal.window:
        parts.append(f"windows of {adapted.signal.window} instead of {config.signal.window}")
    parts += [
        f"a dead-man time of {new.dead_man} instead of {old.dead_man} in {old.name}"
        for old, new in zip(config.domains, adapted.domains, strict=True)
        if new.dead_man != old.dead_man
    ]
    return f"a sample every {adapted.signal.period}: {', '.join(parts)}" if parts else None


async def read_samples(config: Config, start: int, end: int) -> AsyncIterator[Sample]:
    """Read the samples of all domains whose windows end from ``start`` to ``end``, UTC ns.

    Raises:
        NoData: Prometheus does not answer as it should.
        ValueError: a query text has an unknown placeholder.
    """
    signal = config.signal
    ends = range(-(-start // signal.period) * signal.period, end + 1, signal.period)
    with open_source(config) as source:
        for at in range(0, len(ends), _POINTS):
            measured = await source.measure_past(ends[at : at + _POINTS])
            for window, found in measured.items():
                for domain in config.domains:
                    yield build_sample(domain, signal, window, found)
