"""The live page on a real run: NATS, the three services and an emulated API server, as ``make demo`` has them.

Each part is a process of its own, and the page is behind another path, as behind the API server's proxy.
"""

import json
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from services.ui.openapi import PREFIX
from tests.support.browser import Page, find_mark, go, open_page, press, read_text, wait_for
from tests.support.demo import output_until, start, wait_until_clean
from tests.support.path_proxy import behind
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.browser
PATH = "/api/v1/namespaces/sluice/services/sluice-ui:http/proxy/"


FIND_ACTION = """
(dialog => {
  if (!dialog?.querySelector('details')) return false;
  if (dialog.querySelector('details[data-kind=action]')) return true;
  [...dialog.querySelectorAll('button')].find(one => one.innerText.includes('Before')).click();
  return false;
})(document.querySelector('dialog[open]'))
"""


async def require_updates(page: Page) -> None:
    """Both domains come up, and what is painted becomes newer without a request."""
    await wait_for(page, "document.querySelectorAll('.card').length === 2", "no domain")
    await wait_for(page, "document.getElementById('link').innerText === 'live'", "not live")
    await page.value("window.lags = []; addEventListener('sluice:painted', one => lags.push(one.detail.published))")
    await wait_for(page, "lags.length > 3 && lags.at(-1) > lags[0]", "nothing is painted")


async def require_story(page: Page) -> None:
    """A mark tells its words on hover, and leads to sample, decision and action."""
    await go(page, "#/domain?d=floor&span=60000")
    place = await find_mark(page)
    await wait_for(page, "document.querySelector('#tip .explain')?.innerText.includes('Proposed by')", "not explained")
    await press(page, "Escape")
    await page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place["right"] - 60, y=place["top"] + 30)
    await wait_for(page, "/robot-control/.test(document.getElementById('tip').innerText)", "no figures on hover")
    await page.value("document.querySelectorAll('main canvas')[2].focus()")
    await press(page, "ArrowLeft")
    await press(page, "Enter")
    # The last decision may wait for its action yet, and a newer one may have replaced it.
    await wait_for(page, FIND_ACTION, "no action in the story")
    assert "the same, byte for byte" in await read_text(page, "dialog")
    await press(page, "Escape")
    await wait_for(page, "!document.querySelector('dialog[open]')")


async def require_time_machine(page: Page) -> None:
    """The slider leads to the past, which stands still; the button leads back to now."""
    await go(page, "#/")
    await wait_for(page, "document.querySelectorAll('.card').length === 2")
    await page.value(
        "(one => { one.value = 500; one.dispatchEvent(new Event('input')); })(document.querySelector('.machine input'))"
    )
    await wait_for(page, "document.getElementById('link').innerText === 'the past'", "not in the past")
    then = await read_text(page, ".when")
    await wait_for(page, "document.querySelectorAll('.card').length === 2")
    assert await read_text(page, ".when") == then
    await page.value("[...document.querySelectorAll('.machine button')].at(-1).click()")
    await wait_for(page, "document.getElementById('link').innerText === 'live'", "not back")
    assert await read_text(page, ".when") != then


async def test_a_real_run_is_watched_behind_another_path(tmp_path: Path) -> None:
    """Live updates, hover, story, time machine and what-if, under the page's content security policy."""
    with start("--seconds", "900", home=tmp_path) as process:
        try:
            printed = "".join(output_until(process, "no control"))
            found = re.search(r"Watch it in a browser: (\S+)", printed)
            assert found is not None, printed
            async with behind(found[1], PATH) as address, open_page(address, width=1300, height=1000) as page:
                await require_updates(page)
                await require_story(page)
                await require_time_machine(page)
                await go(page, "#/what-if?d=floor")
                await wait_for(page, "document.querySelectorAll('fieldset input').length > 2")
                await page.value("document.querySelector('form').requestSubmit()")
                await wait_for(page, "document.querySelector('.caveat')", "no answer")
                assert [one for one in page.complaints if "ERR_ABORTED" not in one] == []
                assert all(PREFIX not in one or PATH in one for one in page.fetched), json.dumps(page.fetched)
                await require_policy(page)
                await require_closed(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
    wait_until_clean(tmp_path)


async def require_policy(page: Page) -> None:
    """The browser refuses inline scripts, styles, and text as markup."""
    for script, kind in (
        ("document.body.setAttribute('onclick', 'window.owned = 1')", "TrustedScript"),
        ("document.body.innerHTML = '<b>bold</b>'", "TrustedHTML"),
    ):
        with pytest.raises(RuntimeError, match=f"requires '{kind}' assignment"):
            await page.value(script)
    script = "Object.assign(document.createElement('style'), {textContent: 'body { display: none }'})"
    await page.value(f"document.head.append({script})")
    assert await page.value("getComputedStyle(document.body).display") == "block"


async def require_closed(address: str) -> None:
    """The page answers to loopback's names only, and changes nothing."""
    async with aiohttp.ClientSession() as session:
        async with session.get(address, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
        async with session.delete(f"{address}{PREFIX}overview") as answer:
            assert answer.status == 403
