"""Every view of the live page by the rules of axe, with names that mean no good.

One browser goes through all views, on a desk and on a telephone, in light and in dark.
"""

import asyncio
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from msgspec import structs

from schemas.config import Config
from services.tools.common.recording import RecordedMessage
from tests.support.browser import Page, find_mark, go, open_page, press, wait_for
from tests.support.bus_stream import config, record, stream
from tests.support.decision_services import join
from tests.support.nats_server import NatsServer
from tests.support.ui_names import HOSTILE, LONG, RIGHT_TO_LEFT, rename
from tests.support.ui_server import publish, recent_stream, serve_page
from tests.support.waiting import PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.node]
AXE = Path(__file__).parent / "axe"
COUNT = 60
MANY = config(14)
FLEET = Config(
    tuple(structs.replace(one, name=f"uplink@node-{i}" if i < 12 else one.name) for i, one in enumerate(MANY.domains))
)
"""Twelve instances of a definition, and two domains of their own."""
SIZES = {"desk, light": (1200, 900, False), "telephone, dark": (390, 844, True)}

FIND_VIOLATIONS = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
  one => one.id + one.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + ' ' + node.failureSummary)))
"""
FIND_INTRUDERS = """
(hidden => [
  ...[...document.querySelectorAll('script:not([src="app.js"]), img:not([src="icon.svg"])')].map(one => one.outerHTML),
  ...[...document.querySelectorAll('*')].flatMap(one => [...one.attributes])
    .map(one => hidden.test(one.value) && one.name !== 'value' && !one.name.startsWith('data-') ? one.value : null)
    .filter(one => one !== null),
  ...(hidden.test(document.body.innerText) ? [document.body.innerText] : []),
  ...(document.title.startsWith('owned') ? ['owned'] : []),
  ...(document.documentElement.scrollWidth > document.documentElement.clientWidth ? ['it scrolls sideways'] : []),
])(/[\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]/)
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe, whose rules find what a screen reader or a keyboard cannot use."""
    home = tmp_path_factory.mktemp("axe")
    for file in (*AXE.glob("package*.json"), AXE / ".npmrc"):
        shutil.copy(file, home)
    subprocess.run(["npm", "ci", "--no-progress"], cwd=home, check=True, capture_output=True, timeout=5 * PATIENCE_S)
    return (home / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


async def judge(page: Page, view: str, *, names_only: bool = False) -> None:
    """Find nothing that breaks a rule, and no name that is more than text, on either screen."""
    for size, (width, height, dark) in SIZES.items():
        await page.resize(width, height, dark=dark)
        assert await page.value(FIND_INTRUDERS) == [], (view, size)
        if not names_only:
            assert await page.value(FIND_VIOLATIONS) == [], (view, size)
    await page.resize(1200, 900)


async def judge_recording(page: Page) -> None:
    """Judge the views of a recording: overview, plots, tooltip, story, search and what-if."""
    await go(page, "#/?s=file")
    await wait_for(page, "document.querySelectorAll('.card').length === 3")
    await judge(page, "cards")
    for name in (LONG, RIGHT_TO_LEFT, HOSTILE):
        await go(page, f"#/domain?s=file&span=60000&d={quote(name)}")
        await wait_for(page, "document.querySelectorAll('main tbody tr').length > 0", name)
        await judge(page, name, names_only=name is not HOSTILE)
    await find_mark(page)
    await wait_for(page, "document.querySelector('#tip .explain')?.innerText", "no explanation")
    await judge(page, "tooltip")
    await press(page, "Enter")
    await wait_for(page, "document.querySelector('dialog[open] details')", "Enter opens no story")
    await page.value("document.querySelectorAll('dialog details').forEach(one => { one.open = true; })")
    await judge(page, "story")
    await press(page, "Escape")
    await go(page, "#/actions?s=file")
    await wait_for(page, "document.querySelectorAll('main tbody tr').length > 10")
    await judge(page, "actions")
    await go(page, f"#/what-if?s=file&d={quote(HOSTILE)}")
    await wait_for(page, "document.querySelectorAll('fieldset input').length > 2")
    await page.value("document.querySelector('form').requestSubmit()")
    await wait_for(page, "document.querySelector('.caveat')", "no answer")
    await page.value("document.querySelector('[data-name]').focus()")
    await judge(page, "what-if")


async def send_recording(page: Page, url: str, path: Path) -> None:
    """Send a recording to the page, and look at it."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{url}api/v1/recordings",
            data=await asyncio.to_thread(path.read_bytes),
            headers={"Content-Type": "application/octet-stream"},
        ) as answer,
    ):
        sent = await answer.json()
    await go(page, f"#/?s={sent['id']}")


async def judge_fleet(page: Page) -> None:
    """Judge a table in which the instances of a definition are one line, and the same with that line opened."""
    await wait_for(page, "document.querySelectorAll('.fleet tbody tr').length === 3", "no line for the definition")
    await wait_for(page, "document.querySelector('.fleet tbody').innerText.includes('12 instances')", "no sum")
    await judge(page, "folded")
    button = "document.querySelector('.fleet button')"
    assert await page.value(f"{button}.getAttribute('aria-expanded')") == "false"
    await page.value(f"{button}.focus()")
    await press(page, "Enter")
    await wait_for(page, "document.querySelectorAll('.fleet tbody tr.part').length === 12", "no instances")
    assert await page.value(f"document.activeElement === {button} && {button}.getAttribute('aria-expanded')") == "true"
    order = "[...document.querySelectorAll('.fleet tbody tr')].map(one => one.classList.contains('part'))"
    rows = await page.value(order)
    first = rows.index(True)
    assert rows[first : first + 12] == [True] * 12, "instances follow their definition's line"
    assert sum(rows) == 12
    await judge(page, "opened")
    await page.value(f"{button}.click()")
    await wait_for(page, "document.querySelectorAll('.fleet tbody tr').length === 3", "it does not close")
    search = "document.querySelector('input[type=search]')"
    await page.value(f"{search}.value = 'node-1'; {search}.dispatchEvent(new Event('input'))")
    await wait_for(page, "document.querySelectorAll('.fleet tbody tr.part').length === 3", "the filter finds nothing")


async def judge_live(page: Page, nats: NatsServer) -> None:
    """Judge the live overview, and the alert of a bus that is gone."""
    await go(page, "#/")
    await wait_for(page, "document.getElementById('link').innerText === 'live'", "not live")
    await wait_for(page, "document.querySelectorAll('.card').length === 3")
    await judge(page, "live")
    nats.stop(kill=True)
    await wait_for(
        page, "document.getElementById('alert').innerText.includes('cannot be read')", "the loss is not shown"
    )
    await judge(page, "alert")


async def test_no_view_breaks_a_rule_of_axe_whatever_the_names_are(nats: NatsServer, tmp_path: Path, axe: str) -> None:
    """Names, roles, order and contrast; a name is text, keeps its own direction, and no page scrolls sideways."""
    of = rename(config(3, "learned"))
    lines: list[RecordedMessage] = recent_stream(of, 4)
    path = record(tmp_path / "run.rec", of, stream(of, COUNT, actions=True))
    many = record(tmp_path / "many.rec", MANY, stream(MANY, 3))
    fleet = record(tmp_path / "fleet.rec", FLEET, stream(FLEET, 3))
    async with join(nats.url, "sluice") as bus, serve_page(nats.url, of, path) as url, open_page(url) as page:
        await publish(bus, lines)
        await page.value(axe + "; true")
        await judge_recording(page)
        await send_recording(page, url, many)
        await wait_for(page, "document.querySelectorAll('.fleet tbody tr').length === 14", "no table")
        await judge(page, "table")
        await send_recording(page, url, fleet)
        await judge_fleet(page)
        await judge_live(page, nats)
        assert [one for one in page.complaints if "ERR_" not in one] == []
        assert "<script>" in await page.value("document.body.innerText")
