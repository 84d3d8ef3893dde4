"""Resources are offered once for each generation, and withdrawn only where the API server says that they are gone."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import msgspec
import pytest

from schemas.definition import DefinitionSource
from schemas.domain import Domain
from services.kube.changes import Deleted, Listed, Updated
from services.kube.objects import NotFound, Rejected, Unavailable
from services.resources.objects import BandwidthDomain
from services.resources.watcher import ResourceWatcher
from tests.support.virtual_time import virtual_time

SPEC: dict[str, Any] = {
    "critical": [{"workload": "robot"}],
    "targets": [{"deployment": "upload", "min": "5M", "max": "900M", "failSafe": "20M"}],
}
Change = Listed[BandwidthDomain] | Updated[BandwidthDomain] | Deleted[BandwidthDomain]


def resource(name: str = "line", generation: int = 1, spec: Any = SPEC, **meta: Any) -> BandwidthDomain:
    """A resource as the API server shows it."""
    fields = {"name": name, "namespace": "factory", "uid": name, "resourceVersion": str(generation)}
    tree = {"metadata": fields | {"generation": generation, "creationTimestamp": "2026-11-28T00:00:00Z"} | meta}
    return msgspec.convert(tree | {"spec": spec}, BandwidthDomain).trim()


class Recorder:
    """A set of definitions that keeps what it was given."""

    def __init__(self) -> None:
        """Begin empty."""
        self.calls: list[str] = []
        self.confirmed: list[list[str]] = []

    def put(self, domain: Domain, source: DefinitionSource, created: str = "") -> str | None:
        """Take a domain."""
        self.calls.append(f"put {domain.name} {source.generation}")
        return None

    def refuse(self, source: DefinitionSource, reason: str, created: str = "") -> None:
        """Take a reason."""
        self.calls.append(f"refuse {source.name} {source.generation}: {reason}")

    def withdraw(self, source: DefinitionSource) -> None:
        """Take a domain away."""
        self.calls.append(f"withdraw {source.name}")

    def confirm_resources(self, sources: Iterable[DefinitionSource]) -> None:
        """Take the whole list."""
        self.confirmed.append(sorted(source.name for source in sources))


class Api:
    """An API server that plays rounds: changes, or an error in place of an answer."""

    def __init__(self, *rounds: list[Change] | Exception) -> None:
        """Play these, one for each list; the last one again and again."""
        self.rounds = list(rounds)
        self.asked: list[float] = []

    async def list_and_watch(self, kind: type[BandwidthDomain], namespace: str) -> AsyncGenerator[Change, None]:
        """Yield the changes of the next round."""
        self.asked.append(asyncio.get_running_loop().time())
        now = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        if isinstance(now, Exception):
            raise now
        for change in now:
            yield change


Play = Callable[..., list[str]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs a watcher for some seconds of virtual time; returns what the set of definitions was given."""

    def run(
        api: Api,
        seconds: float = 1.0,
        look: Callable[[ResourceWatcher], None] = lambda _: None,
        recorder: Recorder | None = None,
    ) -> list[str]:
        recorder = recorder or Recorder()

        async def watch() -> None:
            watcher = ResourceWatcher(api, recorder)
            task = asyncio.create_task(watcher.run())
            await asyncio.sleep(seconds)
            look(watcher)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        with virtual_time(monkeypatch) as (runner, _):
            runner.run(watch())
        return recorder.calls

    return run


def test_each_generation_is_offered_once(play: Play) -> None:
    """A change of the status alone is no news; a resource that is deleted is withdrawn."""
    changes: list[Change] = [
        Listed((resource(),)),
        Updated(resource(resourceVersion="2")),
        Updated(resource(generation=2)),
        Deleted(resource(generation=2)),
    ]
    calls = play(Api(changes, Unavailable("gone")))
    assert calls == ["put factory/line 1", "put factory/line 2", "withdraw line"]


def test_what_describes_no_domain_is_refused_with_the_reason(play: Play) -> None:
    """The set of definitions then lets the generation before it hold."""
    calls = play(Api([Listed((resource(),)), Updated(resource(generation=2, spec={}))], Unavailable("gone")))
    assert calls[0] == "put factory/line 1"
    assert calls[1].startswith("refuse line 2: spec: the key 'critical' is missing")


def test_a_resource_that_is_going_is_withdrawn_at_once(play: Play) -> None:
    """Even if another client's finalizer keeps it."""
    going = Updated(resource(deletionTimestamp="2026-11-28T01:00:00Z"))
    assert play(Api([Listed((resource(),)), going, going], Unavailable("gone")))[1:] == ["withdraw line"]


@pytest.mark.parametrize(
    "error", [Unavailable("down"), Unavailable("busy", status=503), Rejected("403"), NotFound("404")]
)
def test_nothing_is_withdrawn_while_the_server_does_not_list(play: Play, error: Exception) -> None:
    """An API server that starts answers 404 for a kind that it has."""
    calls = play(Api([Listed((resource(), resource("other")))], error), seconds=50)
    assert calls == ["put factory/line 1", "put factory/other 1"]


@pytest.mark.parametrize(
    ("error", "shows"),
    [
        (Unavailable("the server's answer is not what was asked for: nested too deeply", status=200), True),
        (Unavailable("down"), False),
        (Rejected("403"), False),
    ],
)
def test_a_list_that_cannot_be_read_shows_although_no_resource_is_known(
    play: Play, error: Exception, shows: bool
) -> None:
    """One resource that no reader takes hides all others; without rights, or without a server, there is nothing odd."""
    notes: dict[str, str | None] = {}

    def listen(watcher: ResourceWatcher) -> None:
        watcher._set_note = notes.__setitem__
        watcher._miss(error)

    play(Api([]), look=listen)
    assert (notes.get("resources") is not None) is shows


def test_what_went_while_nobody_watched_is_withdrawn_by_the_next_list(play: Play) -> None:
    """Lists are compared with what was known."""
    recorder = Recorder()
    calls = play(Api([Listed((resource(), resource("other")))], [Listed((resource(),))]), seconds=3, recorder=recorder)
    assert calls == ["put factory/line 1", "put factory/other 1", "withdraw other"]
    assert recorder.confirmed[:2] == [["line", "other"], ["line"]]


def test_a_kind_that_stays_away_takes_its_resources_along(play: Play) -> None:
    """Whoever deletes the definition deletes all resources."""
    calls = play(Api([Listed((resource(),))], NotFound("404")), seconds=150)
    assert calls == ["put factory/line 1", "withdraw line"]


def test_without_the_kind_the_server_is_asked_once_a_minute(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    """The file works, and the log has one line."""
    api = Api(NotFound("404"))
    recorder = Recorder()
    assert play(api, seconds=600, recorder=recorder) == []
    assert len(api.asked) <= 11
    assert recorder.confirmed
    assert not any(recorder.confirmed)
    assert capsys.readouterr().out.count("is not installed") <= 1


def test_a_pause_is_read_from_the_annotation(play: Play) -> None:
    """Any value but `false` pauses, as on a workload; the text says how to hand it back."""
    seen: list[str | None] = []
    annotated = Updated(resource(annotations={"sluice.dev/paused": "maintenance"}))
    other = resource("other", annotations={"sluice.dev/paused": "false"})
    play(
        Api([Listed((resource(), other)), annotated], Unavailable()),
        look=lambda watcher: seen.extend(one.pause for one in watcher.resources.values()),
    )
    assert seen[0] is not None
    assert "'maintenance'" in seen[0]
    assert "kubectl -n factory annotate bandwidthdomain line sluice.dev/paused-" in seen[0]
    assert seen[1:] == [None]
