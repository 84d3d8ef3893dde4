"""The signals that clusters have, as settings of the simulated plant.

The pace of probes is that of the shipped configuration, the lag is what ``sluice bench signals`` and runs on real
packets show, and cAdvisor's pace is the kubelet's.  No page is missing here: the case ``missing-20`` of ``sluice bench
policies`` plays pages that are.
"""

from msgspec.structs import replace

from services.plant.simulated.sampling import ByteCounts, SignalTraits

_EXPORTER_HZ = 100
"""Echoes a second of a workload: the default of ``exporter.probes``."""
_SHIPPED = SignalTraits(probe_hz=_EXPORTER_HZ)

PROFILES: dict[str, SignalTraits] = {
    "meter": _SHIPPED,
    "no-meter": replace(_SHIPPED, throughput=None),
    # The kubelet renews a container's counters every 10 to 15 s, each at its own time, and its page says when.
    "cadvisor": replace(_SHIPPED, throughput=ByteCounts((10.0, 15.0), stamped=True)),
    # Exporter and meter, read by a Prometheus at its usual pace: a window needs four scrapes.
    "prometheus-15s": replace(_SHIPPED, period=1.0, window=60.0, scrape=15.0),
    "no-probes": replace(_SHIPPED, blind=True),
}
"""By the name that ``sluice bench policies --signals`` takes."""
SHIPPED = "meter"
"""The profile of the shipped manifests."""
