"""A grammar of hostile messages: a valid message, and mutations of it.

Everything is drawn as text, because no JSON library writes all of it.
"""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

_HOLE = "\x00hole\x00"
NUMBERS = ("1" + "0" * 400, "-1" + "0" * 5000, "9223372036854775807", "-9223372036854775808", "18446744073709551615",
           "1e400", "-1e308", "1e-400", "0.5", "-1", "0", "NaN", "Infinity", "true", "null")  # fmt: skip
DEEP = ("[" * 200_000, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000)
TEXTS = (
    '"' + "x" * 300_000 + '"',
    '"\\ud800"',
    '"\\u0000"',
    '"\\u001b]0;owned\\u0007"',
    '"a.b.>"',
    '""',
    '"\\r\\nA: b"',
)
SHAPES = ("[]", "{}", "[[]]", '[{"workload":""}]', "[" + ",".join(['{"workload":"w"}'] * 5000) + "]")
VALUES = st.sampled_from(NUMBERS + DEEP + TEXTS + SHAPES) | st.integers().map(str) | st.floats().map(repr)
RAW = st.sampled_from((b"", b"\xff\xfe", b"\xef\xbb\xbf{}", b"null", b"[]", b"{", b"\x00" * 1000)) | st.binary(
    max_size=60
)


def _paths(tree: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from _paths(value, (*at, key))


def _mutate(body: bytes, path: tuple[str | int, ...], value: str | None) -> bytes:
    """The message with the value at a path replaced; None: without it."""
    tree = json.loads(body)
    place: Any = tree
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = _HOLE
    return json.dumps(tree).replace(json.dumps(_HOLE), value or "").encode()


def hostile(body: bytes) -> st.SearchStrategy[bytes]:
    """Messages made from a sound one: a field replaced, left out or added; cut off, repeated, or no JSON at all."""
    paths = st.sampled_from(list(_paths(json.loads(body))))
    changed = st.builds(_mutate, st.just(body), paths, VALUES | st.none())
    added = st.builds(lambda value: body[:-1] + b',"memory":' + value.encode() + b"}", VALUES)
    cut = st.integers(0, len(body)).map(lambda end: body[:end])
    return st.one_of(changed, changed, changed, added, cut, RAW, st.just(body + body))


def draw(body: bytes, count: int) -> list[bytes]:
    """Draw so many different messages, the same in each run."""
    drawn: dict[bytes, None] = {}

    @seed(count)
    @settings(max_examples=3 * count, phases=[Phase.generate], database=None)
    @given(hostile(body))
    def collect(one: bytes) -> None:
        drawn[one] = None

    collect()
    return list(drawn)[:count]
