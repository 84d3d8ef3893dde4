"""Domains described in the cluster and the workloads that join them, as one part of the actuator."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from schemas.config import Resources
from services.definitions.definition_set import DefinitionSet
from services.kube.client import KubeClient
from services.kube.objects import KubeObject
from services.resources.enrolment import EnrolmentWatcher
from services.resources.keeper import DefinitionView, StatusKeeper
from services.resources.manifest import domain_name
from services.resources.objects import BandwidthDomain
from services.resources.watcher import ResourceWatcher

_FIRST_S = 2.0


class ResourceDomains:
    """Reads the resources into the set of definitions, and writes how their domains stand."""

    def __init__(  # noqa: PLR0913 - each is supplied by the actuator
        self,
        client: KubeClient,
        definitions: DefinitionSet,
        settings: Resources,
        *,
        on_change: Callable[[], None],
        set_note: Callable[[str, str | None], None],
        is_in_charge: Callable[[], bool],
        warn: Callable[[KubeObject, str], None] = lambda _workload, _why: None,
        find_instances: Callable[[str], Mapping[str, str]] = lambda _template: {},
        find_without_critical: Callable[[str], Collection[str]] = lambda _template: (),
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            definitions: gets every domain.
            settings: which resources count.
            on_change: called after a resource has changed in any way but its status.
            set_note: shows people why resources cannot be read, or that they can (None).
            is_in_charge: whether this process writes statuses.
            warn: reports on a workload why it does not join a domain by its label.
            find_instances: finds the names of a definition's instances by place.
            find_without_critical: finds the places of those without a critical Pod.
        """
        self._definitions = definitions
        self._settings = settings
        self._find_instances, self._find_without_critical = find_instances, find_without_critical
        self.watcher = ResourceWatcher(
            client,
            definitions,
            namespace=settings.namespace or "",
            trusted=settings.trusted,
            on_change=on_change,
            set_note=set_note,
        )
        self._enrolment = EnrolmentWatcher(client, definitions, set_note, warn)
        self.keeper = StatusKeeper(client, self.watcher.resources, self._view, is_in_charge)

    async def run(self) -> None:
        """Work for ever; where resources are switched off, workloads may still join the file's domains."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._enrolment.run())
            if not self._settings.enabled:
                self._definitions.confirm_resources(())
                self.watcher.has_answer.set()
                return
            group.create_task(self.watcher.run())
            group.create_task(self.keeper.run())

    async def wait_for_first(self) -> None:
        """Wait until pauses are known, but not for long: the fail-safe limit must not wait for a slow API server."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_S):
                await self.watcher.has_answer.wait()

    def _view(self, resource: BandwidthDomain) -> DefinitionView:
        key = resource.source.key
        held = self._definitions.holding.get(domain_name(resource.metadata.namespace, resource.metadata.name))
        is_own = held is not None and held.source.key == key
        template = held.domain.name if held is not None and is_own else ""
        return DefinitionView(
            held.domain if held is not None and is_own else None,
            self._definitions.refusals.get(key),
            self._definitions.turned_away.get(key, {}),
            is_open=key in self._definitions.enrolling,
            instances=self._find_instances(template),
            without_critical=self._find_without_critical(template),
        )
