"""Runs every test that records an attack, in full size, and prints their table: ``make attack``."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.attack_tally import FULL, JSON

TESTS = Path(__file__).parents[1]


def find_attacks() -> Iterator[str]:
    """The files with tests that record attacks."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "attacks: Attacks" in path.read_text(encoding="utf-8"):
            yield str(path)


def main() -> int:
    """Attack; the exit code is pytest's."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the table to this file")
    parser.add_argument("--only", default="", help="only tests whose names match, as pytest's -k")
    chosen = parser.parse_args()
    environment = os.environ | {FULL: "1"}
    if chosen.json is not None:
        environment[JSON] = str(chosen.json.absolute())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-k", chosen.only, *find_attacks()]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
