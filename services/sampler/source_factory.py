"""The registry of sources.  Only the configured one is imported, with its client library."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import cast

from schemas.config import Config
from services.sampler.source import Source
from services.sampler.workloads import Workloads

SOURCES = {
    "prometheus": "services.sampler.prometheus.by_place:PlacedPrometheusSource",
    "scrape": "services.sampler.scrape.source:ScrapeSource",
}
"""Module and class by the name that ``signal.source`` takes."""


def source_class(name: str) -> type[Source]:
    """Import the class of a source."""
    module, _, attribute = SOURCES[name].partition(":")
    return cast("type[Source]", getattr(import_module(module), attribute))


@contextmanager
def open_source(config: Config) -> Iterator[Source]:
    """Build the configured source; it is closed when the context ends.

    Raises:
        ValueError: the configuration does not fit together; the text names the place.
    """
    with closing(source_class(config.signal.source)(config.signal, Workloads.from_config(config))) as source:
        yield source


def check_source(config: Config) -> None:
    """Build the configured source and close it.

    Raises:
        ValueError: the configuration does not fit together; the text names the place.
    """
    with open_source(config):
        pass
