"""A token in a file: what is one, and what is none."""

from pathlib import Path

import pytest

from services.kube.access import KubeConfigError, read_token


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, r"cannot be read: .*No such file"),
        (b"", "is empty"),
        (b" \r\n\t", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"\xff\xfea\x00b\x00", "cannot be read"),
        ("t\u2192ken".encode(), "holds no token"),
        (b"one\ntwo", "holds no token"),
        (b"one\rX-Evil: two", "holds no token"),
        (b"a\x00b", "holds no token"),
        (b"\x1b[31mred", "holds no token"),
    ],
)
def test_what_is_no_token_is_reported_and_not_sent(content: bytes | None, why: str, tmp_path: Path) -> None:
    """An interrupted copy, an editor of another system, the wrong file."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KubeConfigError, match=why) as error:
        read_token(str(path))
    assert str(path) in str(error.value)
    assert "evil" not in str(error.value).lower()


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    """A volume that was mounted one level too high."""
    with pytest.raises(KubeConfigError, match=r"cannot be read: .*directory"):
        read_token(str(tmp_path))


@pytest.mark.parametrize("content", [b"abc.def", b"abc.def\n", b" abc.def \r\n", b"\xef\xbb\xbfabc.def"])
def test_a_token_may_be_written_in_several_ways(content: bytes, tmp_path: Path) -> None:
    """With a byte order mark, spaces, or any end of the line; it is read anew for each request."""
    path = tmp_path / "token"
    path.write_bytes(content)
    assert read_token(str(path)) == "Bearer abc.def"
    path.write_bytes(b"another")
    assert read_token(str(path)) == "Bearer another"
