"""Labels that change with every page: memory stays bounded, and what is refused says why."""

import time
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.config import Scrape, Signal
from services.sampler.scrape.parser import MalformedPage, PageReader
from services.sampler.scrape.source import Scraper
from services.sampler.workloads import Workloads, metric_names

LINES = 30
S = 10**9
WORKLOADS = Workloads(metric_names(Signal()), ("f/robot",), ("f/upload",))


def write_page(number: int, lines: int, *, padding: int = 0) -> bytes:
    """A page on which each series has a label of this page."""
    tag = "x" * padding
    return b"".join(
        b'container_network_transmit_bytes_total{namespace="f",pod="upload-5d4-abcde",id="%d-%d%s"} 5\n'
        % (number, line, tag.encode())
        for line in range(lines)
    )


async def scrape_pages(monkeypatch: pytest.MonkeyPatch, pages: list[bytes]) -> tuple[Scraper, list[str | None]]:
    """Scrape these pages every half second."""
    signal = replace(Signal(), scrape=Scrape(max_lines=LINES))
    scraper, began, answers = (
        Scraper("http://127.0.0.1:1/", signal, WORKLOADS),
        time.monotonic(),
        iter(enumerate(pages)),
    )

    def fetch() -> Any:
        number, text = next(answers)
        return scraper._reader.read(text), began + number / 2

    monkeypatch.setattr(scraper, "_fetch", fetch)
    found = [await scraper.scrape((number + 1) * S // 2) for number in range(len(pages))]
    scraper.close()
    return scraper, found


async def test_labels_that_change_with_every_page_are_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The series of a window are bounded, whatever the pages show; labels that stay are read on."""
    scraper, found = await scrape_pages(monkeypatch, [write_page(number, LINES) for number in range(20)])
    assert found[0] is None
    assert found[1] == "http://127.0.0.1:1/: 60 series within a window: their labels change from page to page"
    assert len(scraper.window._last) <= 1.2 * LINES
    assert len(scraper._reader._known) <= LINES + 1000
    _, steady = await scrape_pages(monkeypatch, [write_page(1, LINES)] * 20)
    assert steady == [None] * 20
    # Some Pods come and go.
    _, some = await scrape_pages(monkeypatch, [write_page(number // 8, 15) for number in range(20)])
    assert some == [None] * 20


async def test_labels_that_no_longer_change_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a window has passed."""
    pages = [write_page(number, LINES) for number in range(4)] + [write_page(9, LINES)] * 8
    _, found = await scrape_pages(monkeypatch, pages)
    assert found[-3:] == [None] * 3


def test_long_lines_count_by_their_bytes() -> None:
    """Half a kilobyte each, where there are as many as there may be; a few may be longer."""
    reader = PageReader(WORKLOADS, LINES)
    assert reader.read(write_page(1, 3, padding=4000)).counters
    with pytest.raises(MalformedPage, match="more than 15360 bytes of lines of the configured workloads"):
        reader.read(write_page(1, LINES, padding=500))
