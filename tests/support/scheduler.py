"""Which worker runs which test: tests of one group go to the same worker, one after the other.

Workers collect, and say what belongs together; the process that schedules only hears of names.  (The plugin's own
groups are a suffix of a test's name, which current versions of pytest do not let it add.)
"""

import json
import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


def tell(folder: Path, groups: dict[str, str]) -> None:
    """Let the scheduler know the group of each test that has one; every worker says the same."""
    # At once or not at all: somebody may be reading what another worker has said.
    mine = folder / f"groups-{os.getpid()}.json"
    mine.write_text(json.dumps(groups), encoding="utf-8")
    mine.rename(folder / "groups.json")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups, and tests without one, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Producer, folder: Path) -> None:
        """Read what ``tell`` has written into ``folder`` once the workers have collected."""
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._folder = folder
        self._groups: dict[str, str] = {}

    def add_node_collection(self, node: WorkerController, collection: list[str]) -> None:
        """A worker has collected."""
        self._groups = json.loads((self._folder / "groups.json").read_text(encoding="utf-8"))
        super().add_node_collection(node, collection)

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid, nodeid)
