"""Validates an output path before a run that takes minutes."""

import os
from pathlib import Path

import click


class ResultFile(click.Path):
    """The type of an option that names a file to write, whether or not it exists; gives an absolute ``Path``."""

    def __init__(self) -> None:
        """Accept files only."""
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Make the path absolute, and check that its folder can be written to."""
        path = Path(str(super().convert(str(value), param, ctx))).absolute()
        if not path.parent.is_dir():
            self.fail(f"{path}: there is no folder {path.parent}", param, ctx)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"{path}: no file can be made in {path.parent}", param, ctx)
        return path
