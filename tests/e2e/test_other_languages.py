"""The bus for other languages: the AsyncAPI document, and a Node.js client that uses nothing else of Sluice."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import generate
from schemas.messages import DeadLetter
from services.bus import envelope
from services.tools.common.formatting import decode_message
from tests.support.bus_stream import config, stream
from tests.support.decision_services import join
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S

HERE = Path(__file__).parent / "node"
COUNT = 40

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The client with its dependencies installed from its lock file."""
    home = tmp_path_factory.mktemp("node")
    for file in (*HERE.glob("*.mjs"), *HERE.glob("package*.json"), HERE / ".npmrc"):
        shutil.copy(file, home)
    subprocess.run(["npm", "ci", "--no-progress"], cwd=home, check=True, capture_output=True, timeout=5 * PATIENCE_S)
    yield home
    shutil.rmtree(home)


def run(home: Path, *arguments: str | Path) -> tuple[int, Any, str]:
    """Exit code, JSON result and errors of one of the client's programs."""
    done = subprocess.run(
        ["node", *arguments], cwd=home, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def test_asyncapis_own_parser_takes_the_document(node: Path) -> None:
    """The document is valid, and its channels are the subjects."""
    code, channels, errors = run(node, "document.mjs", generate.HOME / "asyncapi.json")
    assert code == 0, errors
    assert {channel["address"]: channel["messages"] for channel in channels} == {
        "sluice.sample.v1.{domain}": ["Sample"],
        "sluice.definition.v1.{domain}": ["Definition"],
        "sluice.decision.v1.{domain}": ["Decision"],
        "sluice.action.v1.{domain}.{namespace}.{deployment}": ["Action"],
        "sluice.dead.v1.{service}": ["DeadLetter"],
    }


def test_the_parser_would_find_a_fault(node: Path, tmp_path: Path) -> None:
    """A document with a dangling reference is refused: the check above can fail."""
    broken = json.loads((generate.HOME / "asyncapi.json").read_text())
    broken["channels"]["sample"]["messages"]["sample"]["$ref"] = "#/components/messages/none"
    (tmp_path / "asyncapi.json").write_text(json.dumps(broken))
    assert run(node, "document.mjs", tmp_path / "asyncapi.json")[0] == 1


async def fill_bus(nats: NatsServer, *, tamper: bool = False) -> None:
    """Publish samples, decisions, actions and a dead letter on a bus."""
    async with join(nats.url, "sluice") as bus:
        for number, line in enumerate(stream(config(2), COUNT, actions=True)):
            message, headers = decode_message(line), dict(line.headers)
            msg_id = headers.pop(envelope.MSG_ID)
            if tamper and line.kind == "decision" and number > COUNT:
                headers[envelope.TRACE], tamper = envelope.trace_message("another", {}), False
            await bus.publish(line.subject, message, msg_id=msg_id, headers=headers)
        letter = DeadLetter("sluice.sample.v1.x", "decision", "not JSON", "bm8=", 3)
        await bus.publish(bus.subjects.dead("decision"), letter, msg_id="a dead letter")


async def test_every_message_fits_its_schema_and_every_trace_is_whole(node: Path, nats: NatsServer) -> None:
    """NATS's own client reads all kinds, finds them valid, and follows samples to decisions and actions."""
    await fill_bus(nats)
    arguments = ("client.mjs", nats.url, str(generate.HOME), str(2 * COUNT))
    code, result, errors = await asyncio.to_thread(run, node, *arguments)
    assert code == 0, (result, errors)
    assert result["counts"]["sample"] == result["counts"]["decision"] == 2 * COUNT
    assert result["counts"]["dead"] == 1
    assert result["traces"] == 2 * COUNT
    assert 0 < result["whole"] <= result["counts"]["action"]


async def test_the_client_would_find_a_broken_trace(node: Path, nats: NatsServer) -> None:
    """A decision under a trace of its own is found: the check above can fail."""
    await fill_bus(nats, tamper=True)
    code, result, _ = await asyncio.to_thread(run, node, "client.mjs", nats.url, str(generate.HOME), "1")
    assert code == 1
    assert any("trace" in fault for fault in result["faults"])
