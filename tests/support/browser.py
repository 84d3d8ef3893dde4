"""A real Chromium without a network, for the tests of pages: the bench's, with the tests' patience."""

import asyncio
import json
import time
from functools import partial
from typing import Any

from services.bench.ui import chromium as driver
from services.bench.ui.chromium import Page
from tests.support.waiting import PATIENCE_S

__all__ = ["Page", "chromium", "go", "open_page", "press", "read_text", "wait_for"]

chromium = driver.find_chromium
open_page = partial(driver.open_page, patience=PATIENCE_S)


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


async def read_text(page: Page, selector: str = "body") -> str:
    """What a reader sees."""
    return str(await page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


async def press(page: Page, key: str) -> None:
    """Press a key of the real keyboard."""
    codes = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27}
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
