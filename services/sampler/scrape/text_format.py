"""The grammar of an exporter's page, line by line, as Prometheus's own parser has it.

A page is either in the text format or in OpenMetrics; its content type decides.  Each pattern here takes
what Prometheus takes, with these exceptions, where a page that Prometheus reads is refused:

- a raw line feed inside a label value, a NUL byte, labels without a comma between, a name in HELP or TYPE
  without a space behind it: the page is broken;
- a page that does not end with a line feed, and whose length the server did not announce: it may have been cut off.

Taken are, as since Prometheus 3, quoted names in braces, and exemplars of any series.
"""

import re
from math import nan
from typing import NamedTuple


def _repeat(item: bytes) -> bytes:
    """As many items as there are, and never fewer, without a group of its own.

    An atomic group, because a possessive quantifier behind a group matches wrongly before Python 3.11.5
    (github.com/python/cpython/issues/106052).
    """
    return b"(?>(?:" + item + b")*)"


def _optional(item: bytes) -> bytes:
    """The item if it is there; see `_repeat`."""
    return b"(?>(?:" + item + b")?)"


_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_QUOTED = b'"' + _repeat(rb'[^"\\\n\0]++|\\[^\n\0]') + b'"'
_GAP = rb"[ \t]*+"
# Go's decimal floats.  Python also knows digits in groups, Go also knows hexadecimal; Prometheus takes neither.
_FLOAT = rb"(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)" + _optional(rb"[eE][+-]?+[0-9]++")
_INFINITY = b"[iI][nN][fF]" + _optional(b"[iI][nN][iI][tT][yY]")
_NUMBER = b"(?:[+-]?+(?:" + _FLOAT + b"|" + _INFINITY + b")|[nN][aA][nN])"


def _labels(gap: bytes, *, named: bool = True) -> bytes:
    """Labels in braces; if ``named``, a name in quotes without a value is the metric's."""
    pair = gap + b"=" + gap + _QUOTED
    quoted = _QUOTED + (_optional(pair) if named else pair)
    item = b"(?:" + _LABEL + pair + b"|" + quoted + b")"
    more = _repeat(b"," + gap + item + gap) + _optional(b"," + gap)
    return rb"\{" + gap + _optional(item + gap + more) + rb"\}"


_TEXT_LABELS = _labels(_GAP)
_TEXT_HEAD = _NAME + _GAP + _TEXT_LABELS + _GAP + b"|" + _NAME + rb"[ \t]++|" + _TEXT_LABELS + _GAP
_TEXT_NAME = b"(?:" + _NAME + b"|" + _QUOTED + b")"
_TEXT_COMMENT = (
    rb"#(?![ \t]+(?:HELP|TYPE)[ \t])[^\n]*+"
    rb"|#[ \t]++HELP[ \t]++" + _TEXT_NAME + _optional(rb"[ \t][^\n]*+") + b"|"
    rb"#[ \t]++TYPE[ \t]++" + _TEXT_NAME + rb"[ \t](?:counter|gauge|histogram|summary|untyped)"
)
# Nearly every line, three times as fast.
_TEXT_STAMP = rb"(?:[0-9]{1,18}|[0-8][0-9]{18})(?![0-9])"
_PLAIN_PAIR = rb'[a-zA-Z_]\w*+="[ !#-\[\]-~]*+"'
_PLAIN_NUMBER = rb"[0-9]++" + _optional(rb"\.[0-9]++") + _optional(b"e[+-]?+[0-9]++")
_TEXT_LINE = (
    _NAME + rb"\{" + _PLAIN_PAIR + _repeat(b"," + _PLAIN_PAIR) + rb"\} " + _PLAIN_NUMBER + rb"\n"
    rb"|(?:" + _TEXT_HEAD + b")" + _NUMBER + _optional(rb"[ \t]++" + _TEXT_STAMP) + _GAP + rb"\n"
    rb"|" + _GAP + _optional(_TEXT_COMMENT) + rb"\n"
)

_OPEN_LABELS = _labels(b"")
# No date needs a larger exponent, and infinity is none.
_OPEN_STAMP = rb"[+-]?+(?![0-9.]*[eE]\+?0*+[1-9][0-9]{2})" + _FLOAT
_EXEMPLAR_LABELS = _labels(b"", named=False)
_OPEN_HEAD = b"(?:" + _NAME + _optional(_OPEN_LABELS) + b"|" + _OPEN_LABELS + b") "
_OPEN_EXEMPLAR = _optional(b" # " + _EXEMPLAR_LABELS + b" " + _NUMBER + _optional(b" " + _OPEN_STAMP))
_OPEN_TYPES = b"counter|gauge|histogram|gaugehistogram|summary|info|stateset|unknown"
_OPEN_LINE = (
    _OPEN_HEAD + _NUMBER + _optional(b" " + _OPEN_STAMP) + _OPEN_EXEMPLAR + rb"\n"
    rb"|# (?:HELP " + _TEXT_NAME + rb" [^\n]*+|TYPE " + _TEXT_NAME + b" (?:" + _OPEN_TYPES + b")"
    # The unit ends the name.
    rb"|UNIT (?:(?=[a-zA-Z_:][\w:]*_([\w:]+) \1\n)[\w:]++ [\w:]++|" + _TEXT_NAME + rb" ))\n"
)


class Grammar(NamedTuple):
    """One of the two formats."""

    lines: re.Pattern[bytes]
    """As many whole lines as are well formed."""
    sample: re.Pattern[bytes]
    """One sample: its name and labels, its value, its timestamp or None."""
    stamp_unit: int
    """Milliseconds in a timestamp's unit."""


TEXT = Grammar(
    re.compile(_repeat(_TEXT_LINE)),
    re.compile(
        b"(" + _TEXT_HEAD + b")(" + _NUMBER + b")" + _optional(rb"[ \t]++(" + _TEXT_STAMP + b")") + _GAP + rb"\n?"
    ),
    1,
)
OPENMETRICS = Grammar(
    re.compile(_repeat(_OPEN_LINE)),
    re.compile(
        b"(" + _OPEN_HEAD + b")(" + _NUMBER + b")" + _optional(b" (" + _OPEN_STAMP + b")") + _OPEN_EXEMPLAR + rb"\n?"
    ),
    1000,
)

_ITEM = re.compile(
    rb"("
    + _LABEL
    + b"|"
    + _QUOTED
    + b")"
    + _GAP
    + _optional(b"=" + _GAP + b"(" + _QUOTED + b")")
    + _GAP
    + b",?+"
    + _GAP
)
_ESCAPES = {rb"\"": b'"', rb"\\": b"\\", rb"\n": b"\n"}


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Parse a sample's name and labels, which match ``Grammar.sample``; labels without a value do not exist.

    Raises:
        ValueError: no name or two, a label twice, or bytes that are no UTF-8.
    """
    before, brace, inside = head.partition(b"{")
    names = [before.strip()] if before.strip() else []
    labels: dict[str, str] = {}
    for name, value in _ITEM.findall(inside.rstrip(b" \t}").lstrip() if brace else b""):
        if not value:
            names.append(_unquote(name))
            continue
        label = (_unquote(name) if name.startswith(b'"') else name).decode()
        if label in labels:
            raise ValueError(f"label {label!r} twice")
        labels[label] = _unquote(value).decode()
    if len(names) != 1:
        raise ValueError("no metric name" if not names else "two metric names")
    return names[0].decode(), {label: value for label, value in labels.items() if value}


def _unquote(text: bytes) -> bytes:
    return re.sub(rb'\\[\\n"]', lambda match: _ESCAPES[match[0]], text[1:-1])


def parse_bound(text: str) -> float:
    """A bucket's bound from its label ``le``, in any notation of a number; NaN where it is none."""
    return float(text) if re.fullmatch(_NUMBER, text.encode()) else nan
