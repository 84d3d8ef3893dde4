"""The live page in a real Chromium: on a recording, on a real bus, and behind another path.

One browser serves all tests of a module's part: each begins at an address of its own.
"""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec import structs

from schemas.config import Config
from schemas.domain import Critical
from services.ui.openapi import PREFIX
from tests.support.browser import Page, open_page
from tests.support.bus_stream import config, record, stream
from tests.support.decision_services import join
from tests.support.nats_server import NatsServer
from tests.support.ui_server import let_connections_close, publish, recent_stream, serve_page
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "axe"
COUNT = 120
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\u202eevil\u2066"
LONG = "x" * 253


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, with actions."""
    of = config(2, "learned")
    return record(tmp_path_factory.mktemp("ui") / "run.rec", of, stream(of, COUNT, actions=True))


async def wait_for(page: Page, script: str, what: str = "") -> Any:
    """Wait until a script's value is true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := await page.value(f"(one => one instanceof Node ? true : one)({script})")):
        assert time.monotonic() < deadline, (
            what or script,
            page.complaints,
            await page.value("document.body.innerText"),
        )
        await asyncio.sleep(0.05)
    return found


async def go(page: Page, hash_: str) -> None:
    """Go to a view."""
    await page.value(f"location.hash = {json.dumps(hash_)}")


async def text(page: Page, selector: str = "body") -> str:
    """What a reader sees."""
    return str(await page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


async def press(page: Page, key: str) -> None:
    """Press a key of the real keyboard."""
    codes = {"ArrowLeft": 37, "Enter": 13, "Escape": 27}
    extra: dict[str, Any] = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        await page.ask(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **extra
        )


async def find_mark(page: Page) -> dict[str, float]:
    """Scroll to the plot of limits, press a key for its last mark, and find where that is in the window."""
    await wait_for(page, "document.querySelectorAll('main tbody tr').length > 2", "no decision is listed")
    await page.value("document.querySelectorAll('main canvas')[2].scrollIntoView({block: 'center'})")
    await page.value("document.querySelectorAll('main canvas')[2].focus()")
    await press(page, "ArrowLeft")
    await wait_for(page, "!document.getElementById('tip').hidden", "the key shows no mark")
    found: dict[str, float] = await page.value(
        "(b => ({left: b.left, right: b.right, top: b.top, bottom: b.bottom}))"
        "(document.querySelectorAll('main canvas')[2].getBoundingClientRect())"
    )
    return found


@asynccontextmanager
async def behind(address: str, path: str) -> AsyncIterator[str]:
    """A proxy that serves the page below a path, as an API server does; gives the new address."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        target = f"{address}{request.match_info['rest']}"
        headers = {"Content-Type": request.content_type} if request.can_read_body else {}
        response = web.StreamResponse(status=502)
        # The browser, or the server behind, may be gone meanwhile.
        with suppress(ConnectionResetError, aiohttp.ClientError):
            async with session.request(
                request.method, target, params=request.query, data=await request.read(), headers=headers
            ) as answer:
                response.set_status(answer.status)
                for name, value in answer.headers.items():
                    if name in ("Content-Type", "Content-Security-Policy"):
                        response.headers[name] = value
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        return response

    application = web.Application()
    application.router.add_route("*", f"{path}{{rest:.*}}", pass_on)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
        finally:
            await runner.cleanup()
            await let_connections_close()


async def test_a_recording_is_looked_at(recording: Path) -> None:
    """Overview, domain, marks by mouse and keyboard, story, search, what-if and time machine."""
    async with serve_page(file=recording) as url, open_page(url, width=1300, height=1000) as page:
        await wait_for(page, "document.querySelectorAll('.card').length === 2")
        await go(page, "#/domain?s=file&d=cell-0&span=60000")
        place = await find_mark(page)
        shown = await wait_for(page, "document.querySelector('#tip .explain')?.innerText", "no explanation")
        assert "Proposed by" in shown
        assert "Shielded" in shown
        # The mouse finds the same figures, without any mark.
        await page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place["left"] + 400, y=place["top"] + 12)
        await wait_for(
            page,
            "/robot-control|Mbit/.test(document.getElementById('tip').innerText)",
        )
        await page.value("document.querySelectorAll('main canvas')[2].focus()")
        await press(page, "ArrowLeft")
        await press(page, "Enter")
        await wait_for(page, "document.querySelector('dialog[open] details')", "Enter opens no story")
        kinds = await page.value("[...document.querySelectorAll('dialog details')].map(one => one.dataset.kind)")
        assert kinds[:3] == ["sample", "decision", "action"]
        title = await text(page, "#story-title")
        await page.value(
            "[...document.querySelectorAll('dialog button')].find(one => one.innerText.includes('Before')).click()"
        )
        await wait_for(page, f"document.getElementById('story-title').innerText !== {json.dumps(title)}")
        await press(page, "Escape")
        await wait_for(page, "!document.querySelector('dialog[open]') && location.hash.includes('/domain')")
        await travel(page)
        await search_and_ask(page)
        assert page.complaints == []
        assert all(one.startswith((url, "data:")) for one in page.fetched), page.fetched


async def travel(page: Page) -> None:
    """The slider leads back, and playing goes on from there."""
    when = "document.querySelector('.when').innerText"
    end = await page.value(when)
    await page.value(
        "(one => { one.value = 400; one.dispatchEvent(new Event('input')); })(document.querySelector('.machine input'))"
    )
    middle = await wait_for(page, f"{when} !== {json.dumps(end)} && {when}")
    await page.value(
        "(one => { one.value = '10'; one.dispatchEvent(new Event('change')); })"
        "(document.querySelector('.machine select'))"
    )
    await page.value("document.querySelector('.machine button').click()")
    await wait_for(page, f"{when} !== {json.dumps(middle)}", "it does not play")


async def search_and_ask(page: Page) -> None:
    """The search finds actions, and a what-if shows limits beside the recorded ones."""
    await go(page, "#/actions?s=file")
    await wait_for(page, "document.querySelectorAll('main tbody tr').length > 10")
    await go(page, "#/what-if?s=file&d=cell-1")
    await wait_for(page, "document.querySelectorAll('fieldset input').length > 2")
    await page.value(
        "(one => { one.value = 'aimd'; one.dispatchEvent(new Event('change')); })"
        "(document.querySelectorAll('form select')[1])"
    )
    await page.value("document.querySelector('form').requestSubmit()")
    await wait_for(page, "document.querySelector('.caveat')", "no answer")
    assert "cannot tell what latency other limits would have caused" in await text(page, ".caveat")
    assert "aimd/1" in await text(page, "main table")


async def test_a_finger_and_odd_addresses(recording: Path) -> None:
    """A tap shows the figures and leaves them there; only the view that was asked for last is shown."""
    async with serve_page(file=recording) as url, open_page(url, width=700, height=1000) as page:
        await go(page, "#/domain?s=file&d=cell-0&span=60000")
        await wait_for(page, "document.querySelectorAll('main tbody tr').length > 2", "no decision is listed")
        await page.value("document.querySelectorAll('main canvas')[0].scrollIntoView({block: 'center'})")
        box = await page.value(
            "(b => [b.left + b.width / 2, b.top + b.height / 2])"
            "(document.querySelector('main canvas').getBoundingClientRect())"
        )
        await page.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
        await page.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        await wait_for(page, "!document.getElementById('tip').hidden", "the tap shows nothing")
        await page.value(
            "location.hash = '#/actions?s=file'; setTimeout(() => { location.hash = '#/what-if?s=file'; }, 5)"
        )
        await wait_for(page, "document.querySelector('main h1')?.innerText === 'What if?'", "no view")
        assert await page.value("document.querySelectorAll('main h1').length") == 1
        await go(page, "#/constructor")
        await wait_for(page, "document.querySelectorAll('.card').length === 2", "no overview")


async def test_a_dropped_recording_is_shown(recording: Path) -> None:
    """Bytes that are none are refused with the reason.  On a telephone nothing but tables scrolls sideways."""
    async with serve_page(file=recording) as url, open_page(url, width=390, height=844, dark=True) as page:
        await wait_for(page, "document.querySelectorAll('.card').length === 2")
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        body = await asyncio.to_thread(recording.read_bytes)
        drop = (
            "(bytes => {{ const moved = new DataTransfer(); moved.items.add(new File([new Uint8Array(bytes)], {name}));"
            "dispatchEvent(new DragEvent('drop', {{dataTransfer: moved}})); }})({bytes})"
        )
        await page.value(drop.format(name=json.dumps("no recording"), bytes="[1, 2, 3]"))
        assert "not the header" in await wait_for(
            page, "!document.getElementById('alert').hidden && document.getElementById('alert').innerText"
        )
        await page.value(drop.format(name=json.dumps(HOSTILE), bytes=json.dumps(list(body))))
        await wait_for(page, "location.hash.includes('s=') && document.querySelectorAll('#source option').length === 2")
        await wait_for(page, "document.querySelectorAll('.card').length === 2")
        await go(page, "#/domain?s=file&d=cell-0")
        await wait_for(page, "document.querySelectorAll('main tbody tr').length > 2")
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        # The refused bytes are the only complaint.
        assert len([one for one in page.complaints if "400" not in one]) == 0
        assert await page.value("document.title") != "owned"


def hostile(of: Config) -> Config:
    """A configuration whose names are a script, marks that reverse text, and 253 characters."""
    first, second = of.domains
    name = HOSTILE.replace("/", "").replace(" ", "")
    return structs.replace(
        of,
        domains=(
            structs.replace(
                first,
                name=HOSTILE,
                critical=(Critical(name, "<b>"),),
                targets=tuple(structs.replace(one, deployment=f"{name}{i}") for i, one in enumerate(first.targets)),
            ),
            structs.replace(
                second,
                name=LONG,
                critical=(Critical(LONG, "n"),),
                targets=(structs.replace(second.targets[0], deployment=LONG),),
            ),
        ),
    )


async def test_it_is_live_behind_any_path_whatever_the_names_are(nats: NatsServer) -> None:
    """New messages change the page, and hostile names stay text in every view; a lost bus is told."""
    of = hostile(config(2))
    lines = recent_stream(of, 60)
    async with join(nats.url, "sluice") as bus, serve_page(nats.url, of) as url:
        await publish(bus, lines[:-80])
        async with (
            behind(url, "/api/v1/namespaces/sluice/services/sluice-ui:http/proxy/") as address,
            open_page(address) as page,
        ):
            await wait_for(page, "document.querySelectorAll('.card').length === 2")
            await page.value("window.painted = 0; addEventListener('sluice:painted', () => { window.painted += 1; })")
            await publish(bus, lines[-80:-65])
            await wait_for(page, "window.painted > 0", "nothing was painted")
            await page.value("document.querySelector('.card a').click()")
            await wait_for(page, "document.querySelectorAll('main tbody tr').length > 1")
            rows = await page.value("document.querySelector('main tbody').innerText")
            await publish(bus, lines[-65:])
            await wait_for(
                page,
                f"document.querySelector('main tbody').innerText !== {json.dumps(rows)}",
                "the domain stands still",
            )
            for view in ("#/actions", "#/what-if", "#/"):
                await go(page, view)
                await wait_for(page, "document.querySelector('main').innerText.length > 60")
            assert (
                await page.value("document.querySelectorAll('main script, main img, main b:not(.tile b)').length") == 0
            )
            assert await page.value("document.title") == "Sluice"
            shown = await text(page, "main")
            assert "<script>" in shown
            assert "\\u202e" in shown
            assert "\u202e" not in shown
            assert await page.value("document.documentElement.scrollWidth <= innerWidth")
            nats.stop(kill=True)
            await wait_for(
                page, "document.getElementById('alert').innerText.includes('cannot be read')", "the loss is not told"
            )
            assert [one for one in page.complaints if "ERR_ABORTED" not in one] == []
            assert all(PREFIX not in one or "/proxy/" in one for one in page.fetched)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe, whose rules find what a screen reader or a keyboard cannot use."""
    home = tmp_path_factory.mktemp("axe")
    for file in (*AXE.glob("package*.json"), AXE / ".npmrc"):
        shutil.copy(file, home)
    subprocess.run(["npm", "ci", "--no-progress"], cwd=home, check=True, capture_output=True, timeout=5 * PATIENCE_S)
    return (home / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


FIND_VIOLATIONS = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
  one => one.id + one.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + ' ' + node.failureSummary)))
"""
VIEWS = {
    "#/": "document.querySelectorAll('.card').length === 2",
    "#/domain?s=file&d=cell-0": "document.querySelectorAll('main tbody tr').length > 2",
    "#/actions?s=file": "document.querySelectorAll('main tbody tr').length > 10",
    "#/what-if?s=file": "document.querySelectorAll('fieldset input').length > 2",
    "#/story?s=file&d=cell-0&id=cell-0": "document.querySelector('dialog[open] details')",
}


@pytest.mark.node
async def test_no_view_breaks_a_rule_of_axe(recording: Path, axe: str) -> None:
    """Names, roles, order, contrast: nothing to find in any view, on a light and a dark screen."""
    async with serve_page(file=recording) as url, open_page(url) as page:
        await page.value(axe + "; true")
        for view, ready in VIEWS.items():
            await go(page, view)
            await wait_for(page, ready, view)
            for dark in (False, True):
                await page.resize(1200, dark=dark)
                found = await page.value(FIND_VIOLATIONS)
                assert found == [], (view, dark)
