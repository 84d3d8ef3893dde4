"""Past metrics as a stream of samples: what Sluice would have seen, had it been installed then.

The sampler's own queries are asked over a range of the past, so that a user can try policies on
last week's data before anything is installed.
"""

from collections.abc import AsyncIterator
from contextlib import closing

from msgspec import structs

from schemas.config import Config
from schemas.messages import Sample
from schemas.units import Duration
from services.sampler.naming import Workloads
from services.sampler.prometheus import PrometheusSource, QueryFailed
from services.sampler.samples import sample_of

__all__ = ["QueryFailed", "as_of_then", "samples"]

_POINTS = 500
"""Windows asked for at once: far below Prometheus's limit of 11,000 points a series."""
_TIMEOUT = Duration(60 * 10**9)


def as_of_then(config: Config, url: str, step: int | None) -> Config:
    """The configuration under which a Prometheus would have been sampled every ``step`` ns.

    Raises:
        ValueError: the signal window is no whole number of steps, or a dead-man time is too short for them.
    """
    prometheus = structs.replace(config.signal.prometheus, url=url)
    period = config.signal.period if step is None else Duration(step)
    signal = structs.replace(config.signal, source="prometheus", period=period, timeout=_TIMEOUT, prometheus=prometheus)
    return structs.replace(config, signal=signal)


async def samples(config: Config, start: int, end: int) -> AsyncIterator[Sample]:
    """The samples of all domains whose windows end from ``start`` to ``end``, UTC ns.

    Raises:
        QueryFailed: Prometheus does not answer as it should.
        ValueError: a query text has an unknown placeholder.
    """
    signal = config.signal
    ends = range(-(-start // signal.period) * signal.period, end + 1, signal.period)
    with closing(PrometheusSource(signal, Workloads.of(config))) as source:
        for at in range(0, len(ends), _POINTS):
            measured = await source.history(ends[at : at + _POINTS])
            for window, found in measured.items():
                for domain in config.domains:
                    yield sample_of(domain, window, signal.period, "prometheus", found)
