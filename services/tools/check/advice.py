"""What a configuration alone reveals: how late its signals are, and what is unwise in it.  Pure."""

from schemas.config import Config
from services.sampler.source_factory import source_class
from services.sampler.workloads import metric_names
from services.tools.check.cluster_rules import Finding
from services.tools.check.signal_advice import explain_coarse_buckets, suggest_probes
from services.tools.check.sizing import explain_size

_LONG_WINDOW_S = 5.0
_FEW = 50
_USUAL_PODS = 10
"""Of a target whose Pods were not counted."""


def advise(config: Config, *, measured: bool) -> list[Finding]:
    """List what is allowed, but will work badly.

    Args:
        config: what to look at.
        measured: the source was asked and measures every workload, so that nothing has to be guessed about it.
    """
    signal, source = config.signal, source_class(config.signal.source)
    found = []
    if signal.window.seconds > _LONG_WINDOW_S:
        text = (
            f"over {signal.window} an end of a violation shows up to {source.lag(signal).vanishes:.1f} s late, and "
            "limits stay low for so long: 1s to 3s is better where that gives enough observations"
        )
        found.append(Finding("warning", "signal.window", text))
    found += [Finding("warning", where, text) for where, text in source.warnings(signal)]
    if not measured:
        found += [Finding("warning", "exporter", text) for text in suggest_probes(config)]
        found += [Finding("warning", "buckets", text) for text in explain_coarse_buckets(config)]
    count = sum(len(domain.targets) for domain in config.domains)
    if why := explain_size(count, _USUAL_PODS * count, f"of {_USUAL_PODS} Pods each"):
        found.append(Finding("warning", "targets", why))
    for domain in config.domains:
        where, least = f"domain {domain.name}", domain.min_observations
        if domain.is_template and not metric_names(signal).node:
            name = metric_names(signal).metric
            text = f"{name} has no label for a node: instances have no data; set signal.labels.node"
            found.append(Finding("warning", f"{where}: per", text))
        if least < _FEW:
            text = f"with {least} latencies a true P95 of 2 ms reads anything from about 1.4 to 2.8 ms"
            found.append(Finding("warning", f"{where}: min_observations", text))
        if domain.dead_man < 2 * signal.period + signal.timeout:
            dead_man = domain.dead_man
            text = f"{dead_man} is less than two periods and a timeout: one slow answer puts the fail-safe in force"
            found.append(Finding("warning", f"{where}: dead_man", text))
    return found
