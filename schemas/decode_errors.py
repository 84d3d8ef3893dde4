"""What a JSON decoder raises, in words for people."""

import re

import msgspec

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises on bytes that are not JSON, not of its type, or nested too deeply."""

_REWORDED = (
    (re.compile(r"Object missing required field `(\w+)`"), r"the field `\1` is missing"),
    (re.compile(r"Object contains unknown field `(.*)`"), r"there is no field `\1`"),
    (re.compile(r"JSON is malformed: (.*)"), r"not JSON: \1"),
    (re.compile(r"Input data was truncated"), "not JSON: it is cut off"),
    (re.compile(r"`int`"), "an integer"),
    (re.compile(r"`float`"), "a number"),
    (re.compile(r"`str`"), "a text"),
    (re.compile(r"`bool`"), "true or false"),
    (re.compile(r"`null`"), "nothing"),
    (re.compile(r"`object`"), "an object"),
    (re.compile(r"`array`"), "a list"),
    (re.compile(r" - at `\$\.?(.*)`$"), r" (at `\1`)"),
)


def describe_decode_error(error: Exception | str) -> str:
    """Describe why JSON could not be read, without the decoder's own vocabulary."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    text = str(error)
    for pattern, plain in _REWORDED:
        text = pattern.sub(plain, text)
    return text
