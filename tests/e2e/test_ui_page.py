"""The live page in a real Chromium: on a recording, on a real bus, and behind another path.

One browser serves all tests of a module's part: each begins at an address of its own.
"""

import asyncio
import json
from pathlib import Path

import pytest

from services.ui.openapi import PREFIX
from tests.support.browser import Page, find_mark, go, open_page, press, read_text, wait_for
from tests.support.bus_stream import config, record, stream
from tests.support.decision_services import join
from tests.support.nats_server import NatsServer
from tests.support.path_proxy import behind
from tests.support.ui_names import HOSTILE, rename
from tests.support.ui_server import publish, recent_stream, serve_page
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.browser
COUNT = 120


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, with actions."""
    of = config(2, "learned")
    return record(tmp_path_factory.mktemp("ui") / "run.rec", of, stream(of, COUNT, actions=True))


async def test_a_recording_is_looked_at(recording: Path) -> None:
    """Overview, domain, marks by mouse and keyboard, story, search, what-if and time machine."""
    async with serve_page(file=recording) as url, open_page(url, width=1300, height=1000) as page:
        await wait_for(page, "document.querySelectorAll('.card').length === 2")
        await go(page, "#/domain?s=file&d=cell-0&span=60000")
        place = await find_mark(page)
        shown = await wait_for(page, "document.querySelector('#tip .explain')?.innerText", "no explanation")
        assert "Proposed by" in shown
        assert "Shielded" in shown
        await step_through_marks(page)
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
        title = await read_text(page, "#story-title")
        await page.value(
            "[...document.querySelectorAll('dialog button')].find(one => one.innerText.includes('Before')).click()"
        )
        await wait_for(page, f"document.getElementById('story-title').innerText !== {json.dumps(title)}")
        await require_focus(page)
        await press(page, "Escape")
        await wait_for(page, "!document.querySelector('dialog[open]') && location.hash.includes('/domain')")
        await travel(page)
        await search_and_ask(page)
        assert page.complaints == []
        assert all(one.startswith((url, "data:")) for one in page.fetched), page.fetched


async def step_through_marks(page: Page) -> None:
    """The keys lead to every mark that is listed, also where one decision moved two limits."""
    listed = await page.value(
        "[...document.querySelectorAll('main tbody tr')]"
        ".map(row => row.cells[0].innerText + ' ' + row.cells[4].innerText)"
    )
    assert len({one.split()[0] for one in listed}) < len(listed), "no decision moved two limits"
    shown = []
    for _ in listed:
        shown.append(
            await page.value(
                "(tip => tip.querySelector('b').innerText.slice(0, 8) + ' ' + tip.querySelector('p').innerText)"
                "(document.getElementById('tip'))"
            )
        )
        await press(page, "ArrowLeft")
    assert shown == listed


async def require_focus(page: Page) -> None:
    """The keyboard steps from story to story by one button, and begins at the title of a view that a link opened."""
    title = await read_text(page, "#story-title")
    await page.value("document.querySelector('dialog [data-does=before]').focus()")
    await press(page, "Enter")
    await wait_for(page, f"document.getElementById('story-title').innerText !== {json.dumps(title)}")
    await wait_for(page, "document.activeElement.dataset.does === 'before'", "the button lost the focus")
    await page.value("document.querySelector('dialog a').focus()")
    await press(page, "Enter")
    await wait_for(page, "document.activeElement.matches('main h1')", "the view has no focus")
    await page.value("history.back()")
    await wait_for(page, "document.querySelector('dialog[open] details')", "there is no way back")


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
    assert "cannot tell what latency other limits would have caused" in await read_text(page, ".caveat")
    assert "aimd/1" in await read_text(page, "main table")


HOUR = """
(async () => {
  const { History } = await import('./series.js'), history = new History(), names = [...Array(10).keys()].map(String);
  let most = 0;
  for (let i = 0; i < 7200; i++) {
    const t = 1e12 + i * 500, kinds = ['p95', 'limit', 'sent', 'shadow'];
    history.merge({
      series: kinds.flatMap(kind => names.map(name => ({ kind, name, t: [t], v: [i % 7] }))),
      marks: names.map(name => ({ t, kind: 'cut', id: `d:${t}`, target: name, limit: i })),
      broken: [{ begin: t - 500, end: t, what: 'P95' }].filter(() => i % 9 === 0), blind: [],
    }, t - 450e3);
    const points = history.series(...kinds)[0].t.length;
    most = Math.max(most, history.shades.length, history.marks.length / names.length, points);
  }
  const { marks } = history;
  return [most, marks.at(-1).t - marks[0].t, new Set(marks.map(one => one.key)).size / marks.length];
})()
"""
"""Adds the updates of an hour, two a second, to a history that shows five minutes."""

GAPS = """
(async () => {
  const { History, plain } = await import('./series.js'), { joins } = await import('./plot.js');
  const history = new History(), every = [...Array(20).keys()].map(i => 1e12 + i * 500);
  const windows = every.filter((_, i) => i < 8 || i > 11), long = every.map((_, i) => 1e12 + i * 60e3);
  const one = (kind, name, t) => ({ kind, name, t, v: t.map(() => 1) });
  history.replace({
    series: [one('p95', 'a', windows), one('p95', 'b', every), one('limit', 'c', windows)],
    marks: [], broken: [], blind: [{ begin: 1e12 + 3500, end: 1e12 + 5500, what: 'no data' }],
  });
  const blind = history.shades.filter(one => one.blind);
  const curves = [...history.curves.values(), ...plain([one('p95', 'd', long)], 'of a day')];
  return curves.map(one => one.t.slice(1).filter((_, i) => !joins(one, i + 1, blind)).map(t => t - 1e12));
})()
"""
"""Where lines have gaps: of a workload that was not measured for a while, one that was, a limit, and a long time."""


async def test_an_hour_of_updates_takes_no_more_than_what_is_shown(recording: Path) -> None:
    """Curves, marks and shaded times are forgotten once they are out of sight; a mark is none of another target."""
    async with serve_page(file=recording) as url, open_page(url) as page:
        most, shown, unique = await page.value(HOUR)
        assert most < 2 * 450 + 300
        assert 440_000 < shown < 470_000
        assert unique == 1
        assert await page.value(GAPS) == [[6000], [], [], []]
        assert page.complaints == []


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
        await go(page, "#/?s=gone")
        await wait_for(page, "document.querySelector('.empty')?.innerText.includes('not here any more')", "no reason")
        assert not await page.value("document.querySelectorAll('.card').length")
        await page.value("document.querySelector('.empty a').click()")
        await wait_for(page, "document.querySelectorAll('.card').length === 2", "the link leads nowhere")
        await go(page, "#/constructor")
        await wait_for(page, "document.querySelectorAll('.card').length === 2", "no overview")
        await require_redrawing(page)


async def require_redrawing(page: Page) -> None:
    """The small curves of a recording follow the window's size and its colours."""
    curve = "(one => one.width + one.toDataURL())(document.querySelector('.card canvas'))"
    await wait_for(page, "document.querySelector('.card canvas').width > 300")
    light = await wait_for(page, curve)
    await page.resize(500, 1000)
    await wait_for(page, "document.querySelector('.card canvas').width < 480", "it is stretched")
    await page.resize(700, 1000)
    await wait_for(page, f"{curve} === {json.dumps(light)}", "it is not drawn again")
    await page.resize(700, 1000, dark=True)
    await wait_for(page, f"{curve} !== {json.dumps(light)}", "its colours stay")


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


async def test_it_is_live_behind_any_path_whatever_the_names_are(nats: NatsServer) -> None:
    """New messages change the page, and hostile names stay text in every view; a lost bus is shown."""
    of = rename(config(2))
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
            await require_quiet_while_hidden(page)
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
            await wait_for(page, "document.querySelectorAll('.card').length === 2")
            shown = await read_text(page, "main")
            assert "<script>" in shown
            assert "\\u202e" in shown
            assert "\u202e" not in shown
            assert await page.value("document.documentElement.scrollWidth <= innerWidth")
            nats.stop(kill=True)
            await wait_for(
                page, "document.getElementById('alert').innerText.includes('cannot be read')", "the loss is not shown"
            )
            assert [one for one in page.complaints if "ERR_ABORTED" not in one] == []
            assert all(PREFIX not in one or "/proxy/" in one for one in page.fetched)


async def require_quiet_while_hidden(page: Page) -> None:
    """A hidden tab gives back its connection, of which a browser has six, and follows again once it is seen."""
    hide = (
        "Object.defineProperty(document, 'hidden', {{configurable: true, value: {hidden}}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    before = page.fetched.copy()
    await page.value(hide.format(hidden="true"))
    await page.value("new Promise(done => requestAnimationFrame(done))")
    assert not any("/events" in one for one in page.fetched[len(before) :])
    await page.value(hide.format(hidden="false"))
    async with asyncio.timeout(PATIENCE_S):
        while not any("/events" in one for one in page.fetched[len(before) :]):
            await page.value("new Promise(done => requestAnimationFrame(done))")
