"""Workloads that carry Sluice's record and are no longer in the configuration: nobody raises their last limit.

A target that is taken out of the file, or renamed, keeps the limit that was in force, and its new Pods have none.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog

from schemas.domain import Target
from services.actuator import metrics
from services.actuator.kube_events import EventRecorder
from services.actuator.ownership import KEY, RESUMED
from services.kube.changes import T
from services.kube.objects import BANDWIDTH, NotFound, Rejected, Unavailable, Workload
from services.kube.workloads import RECORD_PREFIX, SelectorRecord, find_kind, object_name

_EVERY_S = 600.0

_log = structlog.get_logger()


class Lister(Protocol):
    """What the search needs of the API client."""

    async def read_json(self, path: str) -> Any:
        """Read what is at a path."""

    async def list_by_labels(self, kind: type[T], namespace: str, selector: str) -> tuple[T, ...]:
        """List the objects that a label selector matches."""


async def find_leftovers(client: Lister, targets: Iterable[Target]) -> list[Workload]:
    """Find the workloads with Sluice's record, in the targets' namespaces, that are no target.

    Raises:
        NotFound, Rejected or Unavailable: they cannot be listed.
    """
    known: dict[tuple[type[Workload], str], set[str]] = {}
    for one in targets:
        known.setdefault((await find_kind(client, one), one.namespace), set()).add(object_name(one))
    found: list[Workload] = []
    for (kind, namespace), names in sorted(known.items(), key=lambda item: (item[0][0].kind, item[0][1])):
        for obj in await client.list_by_labels(kind, namespace, ""):
            name, noted = obj.metadata.name, obj.annotations.get(KEY, RESUMED).strip() != RESUMED
            is_ours = kind is not SelectorRecord or name.startswith(RECORD_PREFIX)
            if noted and is_ours and name not in names:
                found.append(obj)
    return found


async def report_leftovers(
    client: Lister,
    find_targets: Callable[[], Iterable[Target]],
    events: EventRecorder,
    set_note: Callable[[str, str | None], None],
) -> None:
    """Look for leftovers now and then, for ever; they show in the log, as a metric, a note and an Event on each."""
    known = set[str]()
    while True:
        try:
            found = await find_leftovers(client, tuple(find_targets()))
        except (NotFound, Rejected, Unavailable) as error:
            _log.warning("cannot look for limits left over", reason=str(error))
        else:
            metrics.leftovers.set(len(found))
            keys = sorted(f"{one.metadata.namespace}/{one.metadata.name}" for one in found)
            text = f"no target, and still limited by Sluice: {', '.join(keys)[:1000]}; see docs/actuator.md"
            set_note("not configured", text if found else None)
            for one in found:
                if one.uid not in known:
                    what = f"it is in no configuration, and keeps its last limit, {one.bandwidth}"
                    events.record(one, "LimitLeftOver", what, is_warning=True)
                    _log.warning("limit left over", object=one.metadata.name, limit=one.annotations.get(BANDWIDTH))
            known = {one.uid for one in found}
        await asyncio.sleep(_EVERY_S)
