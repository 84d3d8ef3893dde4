"""Keeps passwords out of what people see: health pages, logs and samples quote addresses, which may hold one."""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#\"']*@")


def hide_passwords(text: str) -> str:
    """The text with ``***`` for user and password of every address in it."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text
