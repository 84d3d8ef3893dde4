"""The page's JSON API over a recording and over a real bus."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from schemas.config import BusConfig, Config
from schemas.definition import Definition, DefinitionSource
from schemas.messages import Decision, encode
from schemas.units import Duration
from services.bench.ui.day import fill_streams
from services.bus.subjects import Subjects
from services.control import POLICIES
from services.tools.common.bus_reader import MessageRange
from services.tools.common.formatting import decode_message
from services.tools.common.recording import RecordedMessage, build_message
from services.ui.sources import RecordingSource, UploadTooLarge
from tests.support.bus_stream import config, record, stream
from tests.support.commands import sluice
from tests.support.decision_services import join
from tests.support.documented_answers import require_documented, require_documented_event
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.ui_server import publish, recent_stream, serve_page
from tests.support.waiting import PATIENCE_S

COUNT = 200
S = 10**9


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, with actions."""
    of = config(2)
    return record(tmp_path_factory.mktemp("ui") / "run.rec", of, stream(of, COUNT, actions=True))


class Api:
    """Asks the page."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """See ``api``."""
        self.session, self.url = session, url

    async def get(self, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
        """Ask one address."""
        async with self.session.get(f"{self.url}api/v1/{path}", params=query) as answer:
            return await self._read("get", path, answer, status)

    @staticmethod
    async def _read(method: str, path: str, answer: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
        """Read an answer, which must be what the OpenAPI document says of it."""
        body: dict[str, Any] = await answer.json()
        assert answer.status == status, body
        require_documented(method, path, status, body)
        return body

    async def ask_what_if(self, asked: dict[str, Any] | bytes, status: int = 200) -> dict[str, Any]:
        """Ask for a replay."""
        data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        async with self.session.post(
            f"{self.url}api/v1/what-if", data=data, headers={"Content-Type": "application/json"}
        ) as answer:
            return await self._read("post", "what-if", answer, status)

    async def post(self, path: str, data: bytes, status: int = 200, **headers: str) -> dict[str, Any]:
        """Send a recording's bytes."""
        sent = {"Content-Type": "application/octet-stream"} | headers
        async with self.session.post(f"{self.url}api/v1/{path}", data=data, headers=sent) as answer:
            return await self._read("post", path, answer, status)


@pytest.fixture
async def api(recording: Path) -> AsyncIterator[Api]:
    """The page over the recording."""
    async with serve_page(file=recording) as url, aiohttp.ClientSession() as session:
        yield Api(session, url)


async def test_a_recording_is_shown_at_any_time(api: Api) -> None:
    """The overview tells its end, or an earlier time; curves have every window."""
    [source] = (await api.get("sources"))["sources"]
    end = await api.get("overview", source="file")
    assert [one["name"] for one in end["domains"]] != []
    assert sum(end["counts"].values()) == 2
    middle = await api.get("overview", source="file", at=source["begin"] + 20_000)
    assert max(one["time"] for one in middle["domains"]) <= source["begin"] + 20_000
    found = await api.get("domain", source="file", domain="cell-0")
    kinds = {one["kind"]: one for one in found["series"]}
    assert {"p95", "jitter", "limit", "sent"} <= kinds.keys()
    assert len(kinds["limit"]["t"]) == COUNT
    assert found["settings"]["critical"] == [{"workload": "cell-0/robot-control", "p95": 2.0, "jitter": 2.0}]
    assert found["marks"]
    assert found["broken"]
    assert found["blind"][0]["what"] == "the exporter did not answer"
    part = await api.get(
        "domain", source="file", domain="cell-0", since=source["begin"] + 20_000, until=source["begin"] + 40_000
    )
    assert 30 < len({one["kind"]: one for one in part["series"]}["limit"]["t"]) < 50


async def test_a_story_is_what_explain_prints(api: Api, recording: Path) -> None:
    """From a mark to sample, decision and actions, and on to the decisions around it."""
    marks = (await api.get("domain", source="file", domain="cell-0"))["marks"]
    chosen = marks[len(marks) // 2]["id"]
    story = await api.get("story", source="file", id=chosen)
    printed = (await asyncio.to_thread(sluice, "explain", chosen, recording)).stdout
    assert [line.rstrip() for line in story["lines"]] == [line.rstrip() for line in printed.splitlines()]
    assert [one["kind"] for one in story["links"]][:2] == ["sample", "decision"]
    [action] = [one for one in story["links"] if one["kind"] == "action"][:1]
    assert json.loads(action["json"])["decision"] == chosen
    before = await api.get("story", source="file", id=story["previous"])
    assert before["next"] == chosen
    # An action and a sample lead to the same decision.
    sample = story["links"][0]
    assert (await api.get("story", source="file", id=sample["id"]))["decision"] == chosen
    again = await api.get("story", source="file", id=action["id"], domain="cell-0", at=action["t"])
    assert again["decision"] == chosen


async def test_policies_are_listed_with_their_parameters(api: Api) -> None:
    """Those that a what-if may choose."""
    policies = {one["name"]: one for one in (await api.get("policies"))["policies"]}
    assert policies.keys() == POLICIES.keys()
    assert policies["aimd"]["parameters"]


def define(of: Config, time: int, revision: int, *, removed: bool = False, strict: int = 1) -> RecordedMessage:
    """A definition of the first domain on the bus, with objectives that are so many times stricter."""
    [first, *_] = of.domains
    critical = tuple(structs.replace(one, p95=Duration(one.p95 // strict)) for one in first.critical)
    definition = Definition(
        first.name, revision, DefinitionSource(), structs.replace(first, critical=critical), removed=removed
    )
    subject = Subjects().definition(first.name)
    return build_message("definition", subject, revision, time, {}, encode(definition))


async def test_definitions_hold_until_the_next_one(tmp_path: Path) -> None:
    """Those of a recording are known at any later time; a removed domain is gone."""
    of = config(2)
    lines = list(stream(of, 400))
    first, last = define(of, lines[0].time, 1, strict=4), define(of, lines[-1].time + S, 2, removed=True)
    path = record(tmp_path / "run.rec", structs.replace(of, domains=of.domains[1:]), iter([first, *lines, last]))
    async with serve_page(file=path) as url, aiohttp.ClientSession() as session:
        api = Api(session, url)
        [source] = (await api.get("sources"))["sources"]
        late = lines[-1].time / 1e6
        assert late - first.time / 1e6 > 190_000
        shown = {one["name"]: one for one in (await api.get("overview", source="file", at=late))["domains"]}
        assert shown["cell-0"]["p95"]["objective"] == 0.5
        found = await api.get("domain", source="file", domain="cell-0", until=late)
        assert [one["p95"] for one in found["settings"]["critical"]] == [0.5]
        end = await api.get("overview", source="file", at=source["end"])
        assert [one["name"] for one in end["domains"]] == ["cell-1"]


async def test_an_empty_recording_has_no_times(tmp_path: Path) -> None:
    """Its domains wait."""
    path = record(tmp_path / "run.rec", config(2), iter(()))
    async with serve_page(file=path) as url, aiohttp.ClientSession() as session:
        api = Api(session, url)
        [source] = (await api.get("sources"))["sources"]
        assert source["messages"] == 0
        assert not source.keys() & {"begin", "end"}
        assert (await api.get("overview", source="file"))["counts"] == {"waiting": 2}
        assert (await api.get("domain", source="file", domain="cell-1"))["marks"] == []


async def test_a_range_of_a_recording_is_read_by_its_index(recording: Path) -> None:
    """The messages are those of the range and no others, whatever batches of the file hold them."""
    source = RecordingSource("file", "run.rec", recording)
    await source.index()
    every = [one async for one in source.read(MessageRange())]
    assert len(every) == (await source.describe()).messages
    for begin, end in ((0.0, 0.01), (0.3, 0.4), (0.5, 0.5), (0.9, 2.0), (-1.0, -0.5)):
        since, until = (source.begin + round(share * (source.end - source.begin)) for share in (begin, end))
        read = [one async for one in source.read(MessageRange(("decision",), since, until, ("cell-1",)))]
        assert read == [
            one
            for one in every
            if one.kind == "decision" and one.subject.endswith("cell-1") and since <= one.time <= until
        ]
    with pytest.raises(UploadTooLarge, match=r"run\.rec holds more than 0 MiB of messages: record a shorter time"):
        await RecordingSource("file", "run.rec", recording).index(largest=1000)


async def test_actions_are_found_by_what_they_say(api: Api) -> None:
    """By domain, cause, outcome and text; the newest come first."""
    every = await api.get("actions", source="file", limit=1000)
    assert every["searched"] == len(every["actions"])
    times = [one["t"] for one in every["actions"]]
    assert times == sorted(times, reverse=True)
    some = await api.get("actions", source="file", domain="cell-1", text="ERP-dash", limit=5)
    assert {one["target"] for one in some["actions"]} == {"cell-1/erp-dashboard"}
    assert some["more"]
    assert (await api.get("actions", source="file", cause="drift"))["actions"] == []


async def test_what_if_decides_as_replay_does(api: Api, recording: Path) -> None:
    """The same policy gives the recorded limits; another one those of ``sluice replay``, and the caveat."""
    asked = {"domain": "cell-0", "source": "file", "policy": "proportional"}
    same = await api.ask_what_if(asked)
    assert [one["v"] for one in same["replayed"]] == [one["v"] for one in same["recorded"]]
    other = await api.ask_what_if(asked | {"policy": "aimd"})
    printed = await asyncio.to_thread(sluice, "replay", recording, "--policy", "aimd", "--json")
    expected = json.loads(printed.stdout)["variants"]["aimd"]["cell-0"]
    figures = other["figures"][1]
    for name in ("samples", "lowest", "highest", "changes", "cuts"):
        assert figures[name] == expected[name]
    assert figures["mean"] == expected["limits"] / COUNT
    assert figures["above"] == expected["above"] / COUNT
    assert "cannot tell what latency" in other["caveat"]
    strict = asked | {"objectives": [{"workload": "cell-0/robot-control", "p95": 0.5}]}
    answer = await api.ask_what_if(strict)
    assert answer["figures"][1]["broken"] > other["figures"][1]["broken"]
    assert answer["objectives"][0]["p95"] == 0.5


@pytest.mark.parametrize(
    ("path", "query", "status", "why"),
    [
        ("overview", {"source": "nowhere"}, 404, "there is no recording 'nowhere'"),
        ("overview", {}, 404, "started without a bus"),
        ("overview", {"source": "file", "at": "soon"}, 400, "at"),
        ("domain", {"source": "file"}, 400, "domain"),
        ("domain", {"source": "file", "domain": "<script>"}, 404, "there is no domain '<script>'"),
        ("story", {"source": "file", "id": "cell-0:1790000000000000000"}, 404, "there is no message"),
        ("actions", {"source": "file", "limit": 0}, 400, "limit"),
        ("nothing", {}, 404, "/api/v1/nothing"),
        ("events", {}, 404, "recordings only"),
    ],
)
async def test_a_wrong_question_gets_a_reason(
    api: Api, path: str, query: dict[str, Any], status: int, why: str
) -> None:
    """As JSON, with a status that says whose mistake it is."""
    assert why in (await api.get(path, status, **query))["error"]


async def test_what_is_sent_is_bounded_and_checked(api: Api, recording: Path) -> None:
    """A recording is shown; other bytes, a wrong what-if and a stranger are refused."""
    sent = await api.post("recordings?name=<b>x</b>", await asyncio.to_thread(recording.read_bytes))
    assert (await api.get("overview", source=sent["id"]))["source"]["title"] == "<b>x</b>"
    assert "not the header of a recording" in (await api.post("recordings", b"nonsense", 400))["error"]
    for body, status in (
        (b"{", 400),
        (b'{"domain": "cell-9", "source": "file"}', 404),
        (b'{"domain": "cell-0", "source": "file", "policy": "none"}', 400),
    ):
        assert (await api.ask_what_if(body, status))["error"]
    assert "only the page" in (await api.post("recordings", b"", 403, **{"Sec-Fetch-Site": "cross-site"}))["error"]


async def test_every_answer_carries_the_policy_of_the_page(api: Api) -> None:
    """No script but the page's own, no markup from text, and no name but its own."""
    for path in ("", "app.js", "api/v1/sources", "nowhere.html", "../pyproject.toml"):
        async with api.session.get(api.url + path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            assert "require-trusted-types-for 'script'" in policy
    async with api.session.get(api.url, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403


async def read_events(answer: aiohttp.ClientResponse, name: str) -> dict[str, Any]:
    """The data of the next event of a kind."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            line = (await answer.content.readline()).decode()
            if line == f"event: {name}\n":
                found: dict[str, Any] = json.loads((await answer.content.readline()).decode().removeprefix("data: "))
                require_documented_event(name, found)
                return found


async def test_what_happens_on_the_bus_is_sent_at_once(nats: NatsServer) -> None:
    """An open page gets each domain's new state and the shown domain's new points; the past can be read."""
    of = config(2)
    lines = recent_stream(of, 40)
    async with join(nats.url, "sluice") as bus, serve_page(nats.url, of) as url, aiohttp.ClientSession() as session:
        api = Api(session, url)
        await publish(bus, lines[:-12])
        await wait_ready(api, 200)
        async with session.get(f"{url}api/v1/events", params={"domain": "x" * 5000}) as refused:
            assert refused.status == 400
            assert "error" in await refused.json()
        async with session.get(f"{url}api/v1/events", params={"domain": "cell-1"}) as answer:
            await publish(bus, lines[-12:])
            last = next(
                one
                for line in reversed(lines)
                if isinstance(one := decode_message(line), Decision) and one.domain == "cell-1"
            )
            seen: list[float] = []
            while not seen or seen[-1] < last.end // 10**6:
                update = await read_events(answer, "history")
                assert update["history"]["name"] == "cell-1"
                seen += [time for one in update["history"]["series"] if one["kind"] == "limit" for time in one["t"]]
            assert update["published"] <= update["now"]
            await publish(bus, recent_stream(of, 1))
            assert (await read_events(answer, "overview"))["domains"]
        overview = await api.get("overview")
        assert overview["source"]["begin"] <= time.time() * 1000
        assert {one["name"] for one in overview["domains"]} == {"cell-0", "cell-1"}
        past = await api.get("overview", at=overview["source"]["begin"] + 1)
        assert past["now"] < overview["now"]
        assert (await api.get("actions"))["searched"] > 0
        # A day, and what lies around it.
        long_ago = overview["now"] - 40 * 3600e3
        day = await api.get("domain", domain="cell-1", since=long_ago, until=overview["now"])
        assert day["begin"] == pytest.approx(long_ago, abs=1)
        assert day["series"]


async def test_a_bus_that_is_gone_is_named_and_found_again(nats: NatsServer) -> None:
    """The page stays, says why it knows nothing, and goes on by itself."""
    of = config(1)
    async with join(nats.url, "sluice"):
        pass
    async with serve_page(nats.url, of) as url, aiohttp.ClientSession() as session:
        api = Api(session, url)
        await wait_ready(api, 200)
        nats.stop(kill=True)
        await wait_ready(api, 503)
        assert (await api.get("overview"))["failure"]
        nats.start()
        await wait_ready(api, 200)


async def wait_ready(api: Api, status: int) -> None:
    """Wait until ``/readyz`` answers so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with api.session.get(f"{api.url}readyz") as answer:
                if answer.status == status:
                    return
            await asyncio.sleep(0.05)


async def test_a_pod_takes_no_recordings(recording: Path) -> None:
    """Nor does it answer without the user that a proxy must name.  ``::`` is reached by IPv4, too."""
    async with serve_page(file=recording, host="::", uploads=False, user_header="X-User") as url:
        async with aiohttp.ClientSession(headers={"X-User": "ada"}) as session:
            api = Api(session, url)
            assert (await api.get("sources"))["uploads"] is False
            assert "takes no recordings" in (await api.post("recordings", b"x", 404))["error"]
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 403


async def test_a_long_time_of_the_bus_is_shown_roughly_first(tmp_path: Path) -> None:
    """Of twenty hours, a few hundred windows come at once; each is one of those that all of it is made of."""
    leaf = free_port()
    with NatsServer(tmp_path, f'leafnodes {{ listen: "127.0.0.1:{leaf}", compression: off }}') as nats:
        of, now, hour = config(2), time.time_ns(), 3600 * S
        bus = BusConfig(servers=(nats.url,))
        sent = await fill_streams(bus, leaf, of.domains, 60 * S, range(now - 21 * hour, now - hour))
        async with serve_page(nats.url, of) as url, aiohttp.ClientSession() as session:
            api, name = Api(session, url), of.domains[0].name
            await wait_ready(api, 200)
            since = (now - 22 * hour) // 10**6
            whole = await api.get("domain", domain=name, since=since)
            rough = await api.get("domain", domain=name, since=since, rough="true")
            assert rough["rough"]
            assert "rough" not in whole
            all_of_it, some = ({one["kind"]: one for one in found["series"]} for found in (whole, rough))
            assert {"p95", "sent", "limit"} <= some.keys() == all_of_it.keys()
            assert sent >= 2 * 2 * 1200
            for kind in ("p95", "limit"):
                few, many = some[kind]["t"], all_of_it[kind]["t"]
                assert len(few) <= 400 < len(many)
                assert many[0] == few[0]
                assert many[-1] - few[-1] < 10 * 60_000
            # What was last is shown, although nobody spoke for longer than the page looks back.
            async with asyncio.timeout(PATIENCE_S):
                while any(one["state"] == "waiting" for one in (await api.get("overview"))["domains"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
