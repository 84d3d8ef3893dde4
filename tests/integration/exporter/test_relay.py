"""The follower on real gRPC: TLS, resets, stalls and replays of a Hubble-compatible server."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from schemas.exporter import Relay, Tls
from schemas.units import Duration
from services.common.histogram import BOUNDS
from services.exporter.flow_follower import FlowFollower
from services.exporter.flow_reader import FlowReader
from services.exporter.metrics import LatencyMetrics
from services.exporter.observer_pb2 import LostEvent
from services.exporter.pairing import TO_ENDPOINT, TO_NETWORK, PairingTable
from services.exporter.relay_client import RelayError, open_stream
from tests.support.hubble.flows import Talk
from tests.support.hubble.server import Certificates, HubbleServer
from tests.support.waiting import PATIENCE_S

ROBOT = "factory/robot-control"
MS = 1_000_000
S = 1_000_000_000


class Followed:
    """A follower in its thread, and its counts."""

    def __init__(self, relay: Relay) -> None:
        """Connect it as the service does."""
        self.latencies = LatencyMetrics([ROBOT], BOUNDS, 50, CollectorRegistry())
        self.pairing = PairingTable(5 * S, S, 1000, 1 << 20)
        self.follower = FlowFollower(
            partial(open_stream, relay),
            FlowReader([ROBOT], [], ()),
            self.pairing,
            self.latencies,
            relay.silence,
        )

    @property
    def observed(self) -> int:
        """Latencies so far."""
        return self.latencies.observations[ROBOT]


@contextmanager
def follow(relay: Relay) -> Iterator[Followed]:
    """Follow while the context lasts."""
    followed = Followed(relay)
    thread = threading.Thread(target=followed.follower.run)
    thread.start()
    try:
        yield followed
    finally:
        followed.follower.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait at most fifteen seconds for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def more(followed: Followed, connections: int, observed: int) -> bool:
    """Whether there were more connections than that, and exactly so many observations."""
    return followed.follower.status.connections > connections and followed.observed == observed


class Agent:
    """A node's agent: stamps flows with its own clock, which always advances."""

    def __init__(self, server: HubbleServer) -> None:
        """Report to a server."""
        self._server = server
        self._time = 0

    def now(self) -> int:
        """The next event's time."""
        self._time = max(time.time_ns(), self._time + 1)
        return self._time

    def later(self, step: int) -> None:
        """Shift the time of its next events (ns)."""
        self._time += step

    def ask(self, talk: Talk, point: int = TO_NETWORK) -> None:
        """Publish a SYN."""
        self._server.publish(talk.ask(self.now(), point))

    def answer(self, talk: Talk) -> None:
        """Publish the SYN-ACK."""
        self._server.publish(talk.answer(self.now(), TO_ENDPOINT))

    def handshakes(self, ports: range) -> None:
        """Publish whole handshakes, a few at a time."""
        for port in ports:
            self.ask(Talk(port=port))
        for port in ports:
            self.answer(Talk(port=port))


def check_silence(followed: Followed) -> bool:
    """Check for silence, as the service does every half second."""
    followed.follower.enforce_timeouts()
    return True


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, and one certificate for both sides, named as in Cilium's chart."""
    home = tmp_path_factory.mktemp("tls")
    name = "*.hubble-relay.cilium.io"

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2")
    openssl("req", *key, "-keyout", "tls.key", "-out", "tls.csr", "-subj", f"/CN={name}")
    (home / "names").write_text(f"subjectAltName=DNS:{name}")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    openssl("x509", "-req", "-in", "tls.csr", "-out", "tls.crt", *signing)
    return Certificates(home / "ca.crt", home / "tls.crt", home / "tls.key")


def tls(certificates: Certificates, *, mutual: bool) -> Tls:
    """The client's TLS settings."""
    own = {"certificate": str(certificates.certificate), "key": str(certificates.key)} if mutual else {}
    return Tls(ca=str(certificates.ca), server_name="sluice.hubble-relay.cilium.io", **own)


def test_handshakes_become_latencies_and_relay_filters() -> None:
    """Each handshake is one observation; Relay filters all other flows."""
    with HubbleServer() as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        Agent(server).handshakes(range(1000, 1050))
        for port in range(50):
            Agent(server).ask(Talk(port=port), point=5)
        Agent(server).handshakes(range(2000, 2001))
        wait(lambda: followed.observed == 51, "51 observations")
        assert followed.follower.status.received == 102
        assert followed.follower.problem is None
        assert followed.follower.status.nodes == {"n1": "connected"}


@pytest.mark.openssl
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
def test_tls_as_the_chart_sets_it_up(certificates: Certificates, mutual: bool) -> None:
    """The client verifies the server's authority and name; with mutual TLS it presents a certificate."""
    with HubbleServer(tls=certificates, mutual=mutual) as server:
        relay = Relay(address=server.address, tls=tls(certificates, mutual=mutual))
        with follow(relay) as followed:
            wait(lambda: followed.follower.status.connected, "connection")
            Agent(server).handshakes(range(1000, 1010))
            wait(lambda: followed.observed == 10, "10 observations")


@pytest.mark.openssl
def test_a_relay_that_is_not_trusted_is_not_followed(certificates: Certificates, tmp_path: Path) -> None:
    """A wrong name, no client certificate, plaintext, or an unreadable file: each gives an error with its reason."""
    with HubbleServer(tls=certificates, mutual=True) as server:
        good = tls(certificates, mutual=True)
        for settings in (
            Tls(good.ca, good.certificate, good.key, "somebody.else"),
            tls(certificates, mutual=False),
            None,
        ):
            stream = open_stream(Relay(address=server.address, tls=settings), b"")
            with pytest.raises(RelayError, match="UNAVAILABLE"):
                list(stream)
            stream.close()
        with pytest.raises(RelayError, match="nowhere"):
            open_stream(Relay(address=server.address, tls=Tls(ca=str(tmp_path / "nowhere"))), b"")


def test_resets_lose_and_repeat_nothing() -> None:
    """Connections are cut repeatedly during handshakes: each handshake counts exactly once."""
    with HubbleServer() as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        total, agent = 0, Agent(server)
        for turn in range(4):
            connections = followed.follower.status.connections
            talk = Talk(port=100 + turn)
            agent.ask(talk)
            agent.handshakes(range(1000 * turn + 1000, 1000 * turn + 1040))
            server.cut()
            # Without a client: Relay's ring keeps these.
            agent.handshakes(range(1000 * turn + 1500, 1000 * turn + 1520))
            agent.answer(talk)
            total += 61
            wait(partial(more, followed, connections, total), f"a new connection and {total} observations")
        agent.handshakes(range(9000, 9001))
        wait(lambda: followed.observed == total + 1, "the last one")
        assert followed.follower._replay_filter.repeated > 0


@pytest.mark.parametrize("sort", [False, True], ids=["as it comes", "sorted"])
def test_a_node_that_relay_asks_again_counts_once(sort: bool) -> None:
    """Relay loses a node during a resumed stream and replays all of it: each handshake counts once."""
    with HubbleServer(sort=sort) as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        server.cut()
        wait(lambda: followed.follower.status.connections > 1 and followed.follower.status.connected, "a new one")
        agent = Agent(server)
        for number in range(3):
            # Further from the last flow than a well-kept clock goes back.
            agent.handshakes(range(1000 * number + 1000, 1000 * number + 1060))
            agent.later(S)
        wait(lambda: followed.observed >= 180 - 50 * sort, "all but what is held back")
        server.recall("n1")
        agent.handshakes(range(8000, 8150))
        wait(lambda: followed.observed >= 330, "all of them")
        wait(lambda: followed.follower.status.nodes == {"n1": "error"}, "the reason")
        assert followed.observed == 330
        assert followed.follower._replay_filter.repeated > 300


def test_a_silent_stream_is_reopened() -> None:
    """A stalled server looks like a quiet one, so the stream is replaced after a while."""
    with HubbleServer() as server, follow(Relay(address=server.address, silence=Duration(S // 5))) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        server.stalled = True
        Agent(server).handshakes(range(1000, 1005))
        wait(lambda: check_silence(followed) and followed.follower.status.connections > 1, "a second stream")
        server.stalled = False
        wait(lambda: check_silence(followed) and followed.observed == 5, "what was held back")


def test_a_flood_that_ends_is_forgotten() -> None:
    """Unanswered SYNs, then silence: they expire and are counted although no flow arrives."""
    with HubbleServer() as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        agent = Agent(server)
        for port in range(1000, 1300):
            agent.ask(Talk(port=port))
        wait(lambda: followed.pairing.pending == 300, "300 pending")
        wait(lambda: check_silence(followed) and followed.pairing.pending == 0, "none pending")
        assert followed.pairing.counts["unanswered"] == 300


def test_relays_sorting_delays_and_does_not_spoil() -> None:
    """Relay delays up to 100 flows to sort them: latencies arrive later, but are the same."""
    with HubbleServer(sort=True) as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: len(server.requests), "the request")
        Agent(server).handshakes(range(1000, 1100))
        wait(lambda: followed.observed == 100, "100 observations")
        assert followed.pairing.counts["negative"] == 0


def test_lost_events_are_counted_once() -> None:
    """Relay repeats its losses with every replay; each is counted once, under its label."""
    with HubbleServer() as server, follow(Relay(address=server.address)) as followed:
        wait(lambda: followed.follower.status.connected, "connection")
        Agent(server).handshakes(range(1000, 1001))
        server.lose(LostEvent(source="PERF_EVENT_RING_BUFFER", num_events_lost=40), "n1", time.time_ns())
        server.lose(LostEvent(source="HUBBLE_RING_BUFFER", num_events_lost=2), "n1", time.time_ns())
        wait(lambda: len(followed.follower.status.lost) == 2, "the losses")
        server.cut()
        wait(lambda: followed.follower.status.connections > 1, "a new connection")
        Agent(server).handshakes(range(1001, 1002))
        wait(lambda: followed.observed == 2, "what came after")
        assert followed.follower.status.lost == {"perf_event_ring_buffer": 40, "hubble_ring_buffer": 2}


def test_an_unreachable_relay_is_reported_and_retried() -> None:
    """Until Relay answers, the reason is shown; then the follower connects."""
    with HubbleServer() as gone:
        address = gone.address
    with follow(Relay(address=address)) as followed:
        wait(lambda: "UNAVAILABLE" in (followed.follower.problem or ""), "the reason")
        with HubbleServer(address=address) as server:
            wait(lambda: followed.follower.problem is None, "connection")
            Agent(server).handshakes(range(1000, 1003))
            wait(lambda: followed.observed == 3, "3 observations")
