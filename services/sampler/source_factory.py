"""The sources by name; only the one that is asked for is loaded, with its client."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from schemas.config import Config
from services.sampler.source import Source
from services.sampler.workloads import Workloads


@contextmanager
def source_of(config: Config) -> Iterator[Source]:
    """The source that the configuration names, while the context lasts.

    Raises:
        ValueError: the configuration does not fit together; says where.
    """
    workloads = Workloads.of(config)
    if config.signal.source == "scrape":
        from services.sampler.scrape.source import ScrapeSource  # noqa: PLC0415 - see above

        with closing(ScrapeSource(config.signal, workloads)) as scrape:
            yield scrape
    else:
        from services.sampler.prometheus.source import PrometheusSource  # noqa: PLC0415 - see above

        with closing(PrometheusSource(config.signal, workloads)) as prometheus:
            yield prometheus
