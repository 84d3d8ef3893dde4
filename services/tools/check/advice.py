"""What a configuration says about itself before anything is asked: how late signals are, and what is unwise.  Pure."""

from collections.abc import Iterator

from schemas.config import Config, Signal
from schemas.domain import Domain
from services.sampler.source_factory import source_class
from services.tools.check.cluster_rules import Finding
from services.tools.check.signal_advice import explain_coarse_buckets, suggest_probes

_LONG_WINDOW_S = 5.0
_FEW = 50


def advice(config: Config, *, seen: bool) -> list[Finding]:
    """What is allowed, but will work badly.

    Args:
        config: what to look at.
        seen: the source was asked and measures everybody, so that nothing has to be guessed about it.
    """
    found = [*_of_signal(config.signal)]
    if not seen:
        found += [Finding("warning", "exporter", text) for text in suggest_probes(config)]
        found += [Finding("warning", "buckets", text) for text in explain_coarse_buckets(config)]
    for domain in config.domains:
        found += _of_domain(domain, config.signal)
    return found


def _of_signal(signal: Signal) -> Iterator[Finding]:
    source = source_class(signal.source)
    if signal.window.seconds > _LONG_WINDOW_S:
        yield Finding(
            "warning",
            "signal.window",
            f"over {signal.window} an end of a violation shows up to {source.lag(signal).vanishes:.1f} s late, and "
            "limits stay low for so long: 1s to 3s is better where that gives enough observations",
        )
    for where, text in source.warnings(signal):
        yield Finding("warning", where, text)


def _of_domain(domain: Domain, signal: Signal) -> Iterator[Finding]:
    where = f"domain {domain.name}"
    if domain.min_observations < _FEW:
        yield Finding(
            "warning",
            f"{where}: min_observations",
            f"with {domain.min_observations} latencies a true P95 of 2 ms reads anything from about 1.4 to 2.8 ms",
        )
    if domain.dead_man < 2 * signal.period + signal.timeout:
        yield Finding(
            "warning",
            f"{where}: dead_man",
            f"{domain.dead_man} is less than two periods and a timeout: one slow answer puts the fail-safe in force",
        )
