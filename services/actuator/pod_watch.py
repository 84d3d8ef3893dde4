"""Watches a namespace's Pods for all targets that may have some there, and gives each target its own.

A Pod that two targets match goes to one of them by the rule in ``claims.py``, and is reported.  So is one that a
target's object selects by its labels, while nobody known made it: nobody would limit it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from services.actuator import metrics
from services.actuator.observed import Watched
from services.kube.changes import Deleted, Listed
from services.kube.claims import Claim, Claims
from services.kube.objects import Pod, known_owners
from services.kube.owners import OwnerChains
from services.kube.watching import Change, Watcher, watch_for_ever

_RELIST_S = 0.5
"""New workloads have their Pods listed no more often than this: many may appear one after another."""
_AT_ONCE = 100
"""Pods whose owners are asked for at a time."""
_NAMED = 3
"""Pods that a note names."""

_log = structlog.get_logger()

NotePods = Callable[[str, str, str | None], None]
"""Shows people what is odd about a target's Pods: its key, the namespace, and a text, or that nothing is (None)."""


class NamespacePods:
    """The Pods of one namespace."""

    def __init__(
        self,
        client: Watcher,
        chains: OwnerChains,
        namespace: str,
        report: Callable[[str | None], None],
        note: NotePods,
    ) -> None:
        """Prepare; ``run`` does the work.

        Args:
            client: of the API.
            chains: follows Pods' owners.
            namespace: where.
            report: gets the reason why the Pods cannot be watched, or None.
            note: shows what is odd.
        """
        self._client, self._chains, self._namespace = client, chains, namespace
        self._watched: dict[str, Watched] = {}
        """The targets that may have Pods there, by key, in the order in which they came."""
        self._report, self._note = report, note
        self._claims = Claims(())
        self._claimed: dict[str, tuple[object, ...]] = {}
        """What was seen of the targets' objects when the claims were made."""
        self._seen: dict[str, tuple[object, ...]] = {}
        """Each target's object, as far as claims depend on it."""
        self._found: dict[str, str] = {}
        """The target of a Pod, by uid."""
        self._odd: dict[str, tuple[Claim, str]] = {}
        """Pods to be reported, by uid, and how they are called."""
        self._noted: dict[str, str] = {}
        self._changed = asyncio.Event()

    def add(self, watched: Watched) -> None:
        """Another target may have Pods there; they are listed once its object is seen."""
        self._watched[watched.target.key] = watched

    def remove(self, key: str) -> None:
        """A target is no longer one; what it had may now be another's."""
        del self._watched[key]
        self._claimed.pop(key, None)
        if self._seen.pop(key, None) is not None:
            self._changed.set()

    def look_again(self, key: str) -> None:
        """A target's object was seen: if it is another, its Pods have to be listed."""
        state = self._watched[key].state
        workload = state.workload
        if workload is None:
            return
        selector = workload.selector
        seen = (workload.uid, "" if selector is None else selector.query())
        if self._seen.get(key) != seen:
            self._seen[key] = seen
            # The Pods that were listed so far were dropped, or are another's.
            state.forget_pods()
            self._changed.set()

    async def run(self) -> None:
        """Watch for ever; list again when an object is new or was replaced."""

        async def start() -> Any:
            claims = self._claims
            return self._client.list_and_watch(
                Pod, self._namespace, claims.may_concern, selector=claims.query, keep=claims.labels
            )

        def fail(error: Exception) -> float:
            _log.warning("watch failed", namespace=self._namespace, kind="Pod", reason=str(error))
            self._report(f"cannot watch pods: {error}")
            return 0.0

        watching: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if watching is not None:
                    watching.cancel()
                    await asyncio.wait([watching])
                self._claimed = dict(self._seen)
                self._claims = Claims([(one.target, one.state.workload) for one in self._watched.values()])
                watching = group.create_task(watch_for_ever(start, self._take, fail))
                await asyncio.sleep(_RELIST_S)

    async def _take(self, change: Change, began: float) -> None:
        """Pass a change on to the targets concerned."""
        if isinstance(change, Listed):
            pods = change.objects
            parts: dict[str, list[Pod]] = {key: [] for key in self._watched}
            self._found.clear()
            self._odd.clear()
            for begin in range(0, len(pods), _AT_ONCE):
                some = pods[begin : begin + _AT_ONCE]
                for pod, claim in zip(some, await asyncio.gather(*map(self._judge, some)), strict=True):
                    self._remember(pod, claim)
                    if claim.target in parts:
                        parts[claim.target].append(pod)
            for key, part in parts.items():
                if self._is_current(key):
                    self._watched[key].state.observe(Pod, Listed(tuple(part)), began, self._namespace)
        else:
            pod = change.object
            claim = Claim() if isinstance(change, Deleted) else await self._judge(pod)
            before = self._found.get(pod.uid)
            self._remember(pod, claim)
            if before is not None and before != claim.target and before in self._watched:
                self._watched[before].state.observe(Pod, Deleted(pod), began)
            if claim.target is not None and self._is_current(claim.target):
                self._watched[claim.target].state.observe(Pod, change, began)
        self._report(None)
        self._update_notes()

    def _is_current(self, key: str) -> bool:
        """Whether the claims were made with a target's object as it is now; if not, its Pods are listed again."""
        return key in self._claimed and self._claimed[key] == self._seen.get(key)

    async def _judge(self, pod: Pod) -> Claim:
        return self._claims.judge(pod, await self._chains.follow(pod, self._claims.is_worth_following))

    def _remember(self, pod: Pod, claim: Claim) -> None:
        self._found.pop(pod.uid, None)
        self._odd.pop(pod.uid, None)
        if claim.target is not None:
            self._found[pod.uid] = claim.target
        if (claim.also or claim.stray_of) and not pod.has_ended:
            owners = known_owners(pod)
            whose = f"of {owners[-1].kind} {owners[-1].name}" if owners else "of nobody"
            self._odd[pod.uid] = (claim, f"{pod.metadata.name} {whose}")

    def _update_notes(self) -> None:
        """Say which Pods are odd, where that has changed."""
        texts: dict[str, str] = {}
        strays, shared = dict[str, list[str]](), dict[str, list[str]]()
        for claim, name in self._odd.values():
            for key in claim.stray_of:
                strays.setdefault(key, []).append(name)
            for key in claim.also:
                shared.setdefault(key, []).append(f"{name} ({claim.target})")
        for found, what in (
            (strays, "match its selector and are no target's, so nobody limits them"),
            (shared, "match it and belong to another target"),
        ):
            for key, names in found.items():
                some = ", ".join(sorted(names)[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
                texts[key] = "; ".join(filter(None, (texts.get(key), f"{len(names)} Pods {what}: {some}")))
        for key in texts.keys() | self._noted.keys():
            metrics.stray_pods.labels(key, self._namespace).set(len(strays.get(key, ())))
            text = texts.get(key)
            if self._noted.get(key) != text:
                _log.warning("pods not limited by this target", target=key, namespace=self._namespace, text=text)
                self._note(key, self._namespace, text)
        self._noted = texts
