"""Assigns tests to workers: tests of one group run on the same worker, one after another.

Workers collect the tests and write the groups; the scheduling process receives only the tests' names.  (The plugin's
own groups are a suffix of a test's name, which current versions of pytest do not allow.)
"""

import json
import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController


def tell(folder: Path, groups: dict[str, str]) -> None:
    """Write the group of each test that has one for the scheduler; every worker writes the same."""
    # Rename atomically: the scheduler may be reading another worker's file.
    mine = folder / f"groups-{os.getpid()}.json"
    mine.write_text(json.dumps(groups), encoding="utf-8")
    mine.rename(folder / "groups.json")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Assigns groups, and tests without one, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Producer, folder: Path) -> None:
        """Read what ``tell`` wrote into ``folder`` once the workers have collected."""
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._folder = folder
        self._groups: dict[str, str] = {}

    def add_node_collection(self, node: WorkerController, collection: list[str]) -> None:
        """Note that a worker has collected."""
        saved = self._folder / "groups.json"
        # Missing where a path was mistyped: nothing was collected.
        self._groups = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
        super().add_node_collection(node, collection)

    def schedule(self) -> None:
        """Assign tests to the workers that have collected; also to one that replaces another."""
        is_replacement = self.collection is not None
        super().schedule()
        for node in self.nodes if is_replacement else ():
            # A worker begins a test once it knows the next one.
            self._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Give the tests of a worker that ended to others, but for the one that it ended in, whose id is returned."""
        workload = self.assigned_work[node]
        open_ids = (one for unit in workload.values() for one, is_done in unit.items() if not is_done)
        crashed: str | None = next(open_ids, None)
        if crashed is not None:
            # The next worker would end in it, too.
            workload[self._split_scope(crashed)][crashed] = True
        for scope in [scope for scope, unit in workload.items() if all(unit.values())]:
            del workload[scope]
        super().remove_node(node)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid, nodeid)
