"""Where a result goes, looked at before the work begins: a run takes minutes, and must not be lost for a folder."""

import os
from pathlib import Path

import click


class ResultFile(click.Path):
    """A file that can be written, there or not; a ``Path``, absolute."""

    def __init__(self) -> None:
        """Take no folder."""
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Read it, and look at the folder."""
        path = Path(str(super().convert(str(value), param, ctx))).absolute()
        if not path.parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}", param, ctx)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"{path}: no file can be made in {path.parent}", param, ctx)
        return path
