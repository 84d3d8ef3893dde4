"""What open pages are sent when domains come and go."""

import json

from schemas.config import BusConfig
from schemas.definition import Definition, DefinitionSource
from schemas.messages import Sample
from services.tools.common.formatting import decode_message
from services.ui.broadcast import Broadcaster
from services.ui.sources import LiveSource
from tests.support.bus_stream import config, stream

CONFIG = config(2)


async def test_a_domain_that_goes_before_the_next_frame_is_left_out() -> None:
    """The others are sent all the same."""
    live = LiveSource(CONFIG.domains, "bus")
    broadcaster = Broadcaster(BusConfig(), live)
    lines = [line for line in stream(CONFIG, 1) if line.kind == "sample"]
    async with broadcaster.subscribe("cell-0"):
        for line in lines:
            sample = decode_message(line)
            assert isinstance(sample, Sample)
            broadcaster.overview.add(sample, line.time)
            broadcaster._changed.add(sample.domain)
            broadcaster._fresh[sample.domain].append(line)
        gone = Definition("cell-0", 1, DefinitionSource(), CONFIG.domains[0], removed=True)
        broadcaster.overview.add(gone, 0)
        frames = dict(broadcaster._build_frames())
    assert frames.keys() == {None, "cell-1"}
    sent = json.loads(frames[None].partition(b"data: ")[2])
    assert [one["name"] for one in sent["domains"]] == ["cell-1"]


async def test_open_pages_learn_which_domains_are_gone() -> None:
    """One that was defined anew before the next frame is not among them."""
    broadcaster = Broadcaster(BusConfig(), LiveSource(CONFIG.domains, "bus"))
    async with broadcaster.subscribe(None):
        for name, domain in zip(("cell-0", "cell-1"), CONFIG.domains, strict=True):
            broadcaster.overview.add(Definition(name, 1, DefinitionSource(), domain, removed=True), 0)
            broadcaster._removed.add(name)
        broadcaster.overview.add(Definition("cell-1", 2, DefinitionSource(), CONFIG.domains[1]), 0)
        [(_, frame)] = broadcaster._build_frames()
    assert json.loads(frame.partition(b"data: ")[2])["removed"] == ["cell-0"]
