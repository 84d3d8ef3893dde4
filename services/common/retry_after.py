"""The header by which servers of all kinds ask to be left alone."""

import re
import time
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"\d{1,6}")


def parse_retry_after(text: str | None) -> float | None:
    """The header in seconds from now: a number, or a date as some proxies write it; None where it is neither."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
