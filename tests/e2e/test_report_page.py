"""The report in a real browser without a network: it renders without errors and requests nothing."""

from pathlib import Path

import pytest

from services.tools.common.recording import RecordingReader
from tests.support.browser import Page, open_page
from tests.support.bus_stream import config, record, stream
from tests.support.commands import sluice

pytestmark = pytest.mark.browser
DOMAINS = 2


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a generated recording."""
    home = tmp_path_factory.mktemp("report")
    file = record(home / "x.jsonl.zst", config(DOMAINS), stream(config(DOMAINS), 300, actions=True))
    assert RecordingReader(file).header.domains
    done = sluice("report", file, "-o", home / "report.html")
    assert done.returncode == 0, done.stderr
    return home / "report.html"


async def colour(page: Page, selector: str, attribute: str = "color") -> str:
    """A computed colour."""
    return str(await page.value(f"getComputedStyle(document.querySelector('{selector}'))['{attribute}']"))


@pytest.mark.parametrize("dark", [False, True])
async def test_it_renders_without_errors(report: Path, dark: bool) -> None:
    """Every plot is drawn, the console is empty, and the file's own address is the only request."""
    async with open_page(report, dark=dark) as page:
        assert await page.value("document.querySelectorAll('.plot .main-svg').length") >= DOMAINS
        assert await page.value("document.querySelectorAll('.plot .scatterlayer .trace').length") >= 5 * DOMAINS
        picture = await page.look()
        assert picture.startswith(b"\x89PNG")
        assert page.complaints == []
        assert page.fetched == [report.as_uri()]


async def test_light_and_dark_are_both_readable(report: Path) -> None:
    """Background, text and the plots' text follow the reader's preferred colour scheme."""
    grounds, inks, labels = [], [], []
    for dark in (False, True):
        async with open_page(report, dark=dark) as page:
            grounds.append(await colour(page, "body", "background-color"))
            inks.append(await colour(page, "body"))
            labels.append(await colour(page, ".plot .ytick text", "fill"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]
    assert inks == labels == ["rgb(31, 35, 40)", "rgb(230, 237, 243)"]


async def test_it_prints(report: Path) -> None:
    """In print the plots fit the page, whatever the window's width."""
    async with open_page(report, dark=True, width=1600) as page:
        await page.value("window.dispatchEvent(new Event('beforeprint'))")
        assert await page.value("document.querySelector('.plot .main-svg').getBoundingClientRect().width") <= 700
        await page.value("window.dispatchEvent(new Event('afterprint'))")
        assert await page.value("document.querySelector('.plot .main-svg').getBoundingClientRect().width") > 900
        assert (await page.print()).startswith(b"%PDF")
        assert page.complaints == []


async def test_it_fits_a_narrow_screen(report: Path) -> None:
    """On a telephone only the tables scroll sideways."""
    async with open_page(report, width=420) as page:
        assert await page.value("document.documentElement.scrollWidth") <= 420


async def test_hovering_shows_the_figures(report: Path) -> None:
    """Hovering over a plot shows the measured values."""
    async with open_page(report) as page:
        await page.value("document.querySelector('.plot').scrollIntoView()")
        box = await page.value(
            "(r => [r.x + r.width / 2, r.y + 120])(document.querySelector('.plot').getBoundingClientRect())"
        )
        await page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
        tooltip = ""
        for _ in range(100):
            tooltip = str(await page.value("document.querySelector('.plot .hoverlayer').textContent"))
            if tooltip:
                break
        assert "ms P95" in tooltip
        assert page.complaints == []
