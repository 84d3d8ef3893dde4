"""The bench of the pipeline on real processes: its counts are correct."""

from services.bench.speed.end_to_end import measure
from services.bench.speed.kube_apis import start_emulator


async def test_the_pipeline_is_measured_beside_the_bare_hops() -> None:
    """Three samples for each size of Deployment, each patched on every Pod; the parts add up to the total."""
    figures = await measure(start_emulator, 3)
    assert all(value > 0 for value in figures.values()), figures
    for pods in (3, 30):
        whole, bare = (figures[f"{pods} pods, {what} p99, ms"] for what in ("sample to patches", "bare hops"))
        assert figures[f"{pods} pods, times the bare hops, p99"] == whole / bare
        assert whole >= max(figures[f"{pods} pods, {part} p99, ms"] for part in ("decide", "act"))
