"""Recordings with arbitrary content and arbitrary damage."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tools.common.recording import InvalidRecording, RecordingReader, build_message
from tests.support.bus_stream import BEGIN, config, record, stream

messages = st.tuples(st.text(), st.binary(max_size=200), st.dictionaries(st.text(), st.text(), max_size=3))


@given(st.lists(messages, max_size=20))
def test_every_message_comes_back(content: list[tuple[str, bytes, dict[str, str]]]) -> None:
    """Any subject, header and payload comes back byte for byte."""
    lines = [
        build_message("sample", subject, i, BEGIN, headers, body) for i, (subject, body, headers) in enumerate(content)
    ]
    with TemporaryDirectory() as folder:
        reader = RecordingReader(record(Path(folder) / "x", config(), iter(lines)))
        assert [(line.subject, line.payload, line.headers) for line in reader.read_messages()] == content
        assert reader.problems == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_passes_for_a_message(data: st.DataObject) -> None:
    """Whatever bytes change, disappear or appear, every line that is read was written so, and a loss is reported."""
    written = list(stream(config(), 400))
    with TemporaryDirectory() as folder:
        path = record(Path(folder) / "x", config(), iter(written))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            # Drawn independently of the file's length, which varies a little from one run to the next.
            at = data.draw(st.integers(0, 2**20)) % len(content)
            stretch = data.draw(st.integers(0, 3000))
            content[at : at + stretch] = data.draw(st.binary(max_size=20))
        path.write_bytes(content)
        try:
            reader = RecordingReader(path)
        except InvalidRecording:
            return
        read = list(reader.read_messages())
        assert all(line in written for line in read)
        assert len(read) == len(written) or reader.problems
