"""Wrong input to every command: one line that names what is wrong, a documented exit code, and nothing is started.

The commands and their options are found by walking the tree that click has of them, so that a new one is tested, too.
"""

import asyncio
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner

from services.cli import main
from services.runtime.exit_codes import ExitCode
from services.runtime.option_types import ConfigFile, FiguresFile, ResultFile, ResultFolder
from tests.support.bus_stream import config, record, stream

CONFIG = (
    "domains: [{name: cell-0, critical: [{workload: robot-control}], "
    "targets: [{deployment: upload, min: 5M, max: 80M, fail_safe: 10M}]}]\n"
    'bus: {servers: ["nats://127.0.0.1:9"]}\n'
)
FILES = {
    "nonsense": bytes(range(256)) * 20,
    "not-yaml": b"domains: [\n",
    "scalar": b"42\n",
    "sequence": b"[1, 2]\n",
    "empty": b"",
    "good.yaml": CONFIG.encode(),
}
GOOD = {
    "path": "good.yaml",
    "file": "good.zst",
    "node": "node-1",
    "workload": "upload",
    "decision": "cell-0",
    "output": "new.html",
}
"""What each required parameter gets where another one is wrong."""
UNREADABLE_FILES = ("nonsense", "not-yaml", "scalar", "sequence", "empty", "folder", "missing", "empty/below-a-file")
UNWRITABLE_FILES = ("folder", "missing/new", "empty/below-a-file", "")
FILTERS = {"--domain", "--workload"}
PYTHON_WORDS = re.compile(
    r"Traceback|NoneType|Errno|<class|object at|Object contains|Expected `|codec|\b(str|dict)\b|Error\("
)


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name), command


def wrong_values(option: click.Parameter) -> tuple[str, ...]:  # noqa: PLR0911 - one for each type
    """Values that an option or argument has no meaning for; none where any text may be right."""
    kind = option.type
    if getattr(option, "is_flag", False):
        return ()
    if isinstance(kind, FiguresFile):
        return (*UNWRITABLE_FILES, "nonsense", "not-yaml", "sequence")
    if isinstance(kind, ResultFile):
        return UNWRITABLE_FILES
    if isinstance(kind, ConfigFile):
        return (*UNREADABLE_FILES, "") if isinstance(option, click.Option) else UNREADABLE_FILES
    if isinstance(kind, ResultFolder):
        return ("nonsense", "empty/below-a-file", "")
    if isinstance(kind, click.Path):
        return ("nonsense", "missing", "") if not kind.file_okay else UNREADABLE_FILES
    if isinstance(kind, click.types.IntParamType):
        bounds = (getattr(kind, "min", None), -1), (getattr(kind, "max", None), 1)
        return ("x", "1.5", "", *(str(bound + step) for bound, step in bounds if bound is not None))
    if isinstance(kind, click.types.FloatParamType):
        return ("x", "nan", "inf", "-1", "")
    if option.opts[0] in FILTERS:
        return ("nobody",)
    return () if isinstance(kind, click.types.StringParamType) else ("nonsense", "", "-1", "nan")


def find_cases() -> Iterator[Any]:
    """Every command with each of its wrong values."""
    for path, command in walk(main):
        yield pytest.param((*path, *build_rest(command), "--nonsense"), id=f"{' '.join(path)}: an unknown option")
        extra = (*path, *build_rest(command), *["surplus"] * 3)
        yield pytest.param(extra, id=f"{' '.join(path)}: more arguments than it takes")
        for option in command.params:
            for value in wrong_values(option):
                rest = build_rest(command, option, reads_file=option.opts[0] in FILTERS)
                named = isinstance(option, click.Option)
                words = (*rest, option.opts[0], value) if named else put_argument(command, option, value, rest)
                yield pytest.param((*path, *words), id=f"{' '.join(path)}: {option.opts[0]} {value!r}")


def build_rest(
    command: click.Command, wrong: click.Parameter | None = None, *, reads_file: bool = False
) -> tuple[str, ...]:
    """The arguments and options that the command needs besides the wrong one."""
    words: list[str] = []
    for one in command.params:
        is_needed = one.required or (reads_file and one.name == "file")
        if one is not wrong and is_needed:
            words += [GOOD[str(one.name)]] if isinstance(one, click.Argument) else [one.opts[0], GOOD[str(one.name)]]
    return tuple(words)


def put_argument(command: click.Command, wrong: click.Parameter, value: str, rest: tuple[str, ...]) -> tuple[str, ...]:
    """Place an argument behind those that come before it."""
    before = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    at = before.index(wrong) if wrong in before else len(before)
    return (*rest[:at], value, *rest[at:])


class Started(BaseException):
    """A command that should have ended began its work."""


def refuse(*arguments: object, **_: object) -> NoReturn:
    """Stand for what a command does first when it begins."""
    raise Started(str(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, right and wrong."""
    path = tmp_path_factory.mktemp("input")
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    (path / "folder").mkdir()
    record(path / "good.zst", config(), stream(config(), 20, actions=True))
    return path


@pytest.mark.parametrize("words", list(find_cases()))
def test_wrong_input_is_refused_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """It names the value or the option; no command starts a process or opens a connection before."""
    monkeypatch.chdir(folder)
    for owner, name in ((subprocess, "Popen"), (asyncio, "create_subprocess_exec"), (socket.socket, "connect")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    before = sorted(folder.rglob("*"))
    done = CliRunner().invoke(main, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (ExitCode.FINDING, ExitCode.USAGE, ExitCode.UNREADABLE), done.output
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert not PYTHON_WORDS.search(done.output), done.output
    assert any(word in lines[0] for word in words[1:] if word and word not in GOOD.values()), lines[0]
    assert sorted(folder.rglob("*")) == before
