"""A real Chromium without a network, for the tests of pages: the bench's, with the tests' patience."""

from functools import partial

from services.bench.ui import chromium as driver
from services.bench.ui.chromium import Page
from tests.support.waiting import PATIENCE_S

__all__ = ["Page", "chromium", "open_page"]

chromium = driver.find_chromium
open_page = partial(driver.open_page, patience=PATIENCE_S)
