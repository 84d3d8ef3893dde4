"""The types of options that name a file or folder to write, or a number of some unit: checked before a run begins."""

import json
import math
import os
from pathlib import Path
from typing import NoReturn

import click

from services.common.os_errors import describe_os_error
from services.runtime.exit_codes import CommandFailure, ExitCode


class FiniteRange(click.FloatRange):
    """A number between bounds; neither ``nan`` nor ``inf``, which pass any comparison or make a run endless."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Check that the number is finite."""
        number = float(super().convert(value, param, ctx))  # type: ignore[arg-type]  # click passes text
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class ConfigFile(click.Path):
    """A configuration to read; gives a ``Path``.  Whether it is there is found out when it is read."""

    def __init__(self) -> None:
        """Accept any name of a file."""
        super().__init__(path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Refuse an empty name, which would stand for this folder."""
        if not str(value):
            self.fail("The file's name is empty.", param, ctx)
        return Path(str(super().convert(str(value), param, ctx)))


def _fail_to_write(value: object, why: str) -> NoReturn:
    raise CommandFailure(f"{value}: {why}", ExitCode.UNREADABLE)


class ResultFile(click.Path):
    """A file to write, whether or not it exists; gives an absolute ``Path``."""

    def __init__(self) -> None:
        """Accept files only."""
        super().__init__(path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Make the path absolute, and check that it can be written to.

        Raises:
            CommandFailure: it cannot.
        """
        path = Path(str(super().convert(str(value), param, ctx))).absolute()
        if not str(value):
            self.fail("The file's name is empty.", param, ctx)
        if path.is_dir():
            _fail_to_write(value, "is a directory")
        if not path.parent.is_dir():
            _fail_to_write(value, f"there is no folder {path.parent}")
        if path.exists() and not os.access(path, os.W_OK):
            _fail_to_write(value, "may not be written")
        if not path.exists() and not os.access(path.parent, os.W_OK):
            _fail_to_write(value, f"no file can be made in {path.parent}")
        return path


class FiguresFile(ResultFile):
    """A JSON file to which a bench adds its figures beside those of other benches."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check that what is there can be added to: nothing, or a JSON object."""
        path = super().convert(value, param, ctx)
        try:
            content = json.loads(path.read_bytes() or b"{}") if path.exists() else {}
        except (ValueError, RecursionError):
            content = None
        except OSError as error:
            _fail_to_write(value, describe_os_error(error))
        if not isinstance(content, dict):
            _fail_to_write(value, "not a file of figures; it is left as it is")
        return path


class ResultFolder(click.Path):
    """A folder to write to, which is made where it does not exist; gives an absolute ``Path``."""

    def __init__(self) -> None:
        """Accept folders only."""
        super().__init__(path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Make the path absolute, and check that the folder is there or can be made.

        Raises:
            CommandFailure: it cannot.
        """
        path = Path(str(super().convert(str(value), param, ctx))).absolute()
        if not str(value):
            self.fail("The folder's name is empty.", param, ctx)
        above = next(one for one in (path, *path.parents) if one.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            _fail_to_write(value, f"no folder can be made in {above}")
        return path
