"""Every way to log in to a guarded server, and every refusal."""

import asyncio
import base64
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nkeys
import pytest
from msgspec.structs import replace

from schemas.config import BusConfig
from services.bus.bus import Bus
from tests.support.bus_keys import join, publish, sample, take
from tests.support.nats_server import NatsServer
from tests.support.waiting import PATIENCE_S, until

REFUSED = "Authorization Violation|reset by peer|unexpected EOF"
"""The server sends the reason and closes the connection; the second may arrive first."""
USERS = """
authorization {
  users: [
    {user: decision, password: right}
    {user: watcher, password: right, permissions: {
      publish: {allow: ["$JS.API.STREAM.INFO.>"]}, subscribe: {allow: ["_INBOX_watcher.>"]}
    }}
    {user: deaf, password: right, permissions: {
      publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.>"]}, subscribe: {allow: ["_INBOX_deaf.>"]}
    }}
  ]
}
"""


@contextmanager
def server(home: Path, settings: str) -> Iterator[NatsServer]:
    """A nats-server with these settings."""
    with NatsServer(home / "nats", settings) as started:
        yield started


async def works(at: NatsServer, settings: BusConfig, name: str = "decision") -> None:
    """Publish and read something."""
    async with asyncio.timeout(PATIENCE_S), join(at, name, settings) as (bus, _):
        await publish(bus, sample(1))
        assert (await take(bus, 1))[0].message == sample(1)


async def require_refusal(at: NatsServer, settings: BusConfig, reason: str) -> None:
    """The login is refused for a reason, a regular expression; the service keeps trying.

    On a busy machine the first attempts may fail because a handshake takes too long.
    """
    states: list[str | None] = []

    async def connect_later() -> None:
        async with Bus.connect(replace(settings, servers=(at.url,)), "decision", states.append):
            pass

    waiting = asyncio.create_task(connect_later())
    try:
        await until(lambda: any(re.search(reason, one or "", re.IGNORECASE) for one in states), lambda: states)
        assert not waiting.done()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_user_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password comes from the environment; a wrong or missing one is reported, and the service keeps trying."""
    with server(tmp_path, USERS) as at:
        monkeypatch.setenv("SLUICE_NATS_PASSWORD", "right")
        await works(at, BusConfig(user="decision"))
        monkeypatch.setenv("SLUICE_NATS_PASSWORD", "wrong")
        await require_refusal(at, BusConfig(user="decision"), REFUSED)
        monkeypatch.delenv("SLUICE_NATS_PASSWORD")
        await require_refusal(at, BusConfig(user="decision"), REFUSED)
        await require_refusal(at, BusConfig(), REFUSED)


async def test_a_denied_publish_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service reports the subject, and waits for the permission; it reports streams that it may not create."""
    monkeypatch.setenv("SLUICE_NATS_PASSWORD", "right")
    states: list[str | None] = []
    with server(tmp_path, USERS) as at:
        settings = BusConfig(servers=(at.url,), user="watcher")
        async with asyncio.timeout(PATIENCE_S), Bus.connect(settings, "watcher", states.append) as bus:
            reports = await bus.ensure_streams()
            assert len(reports) == 5
            assert "this user may not publish to $JS.API.STREAM.CREATE.SLUICE_SAMPLE" in reports[0]
            waiting = asyncio.create_task(publish(bus, sample(1)))
            while states[-1] is None:  # noqa: ASYNC110 - the server's doing
                await asyncio.sleep(0.02)
            assert states[-1] == "this user may not publish to sluice.sample.v1.line"
            waiting.cancel()


async def test_a_denied_pull_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader reports the subject instead of a silent server, as long as it fails."""
    monkeypatch.setenv("SLUICE_NATS_PASSWORD", "right")
    with server(tmp_path, USERS) as at:
        async with join(at, "deaf", BusConfig(user="deaf")) as (bus, states):
            reading = asyncio.create_task(take(bus, 1))
            denied = "this user may not publish to $JS.API.CONSUMER.MSG.NEXT.SLUICE_SAMPLE.reader"
            async with asyncio.timeout(PATIENCE_S):
                while denied not in states:  # noqa: ASYNC110 - the server's doing
                    await asyncio.sleep(0.02)
                await asyncio.sleep(1)
            assert not reading.done()
            reading.cancel()
        assert states[states.index(denied) :] == [denied]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and a server's and a client's certificate from it."""
    home = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    signs = ("-addext", "keyUsage=critical,keyCertSign")
    for authority in ("ca", "other"):
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.crt")
        openssl("req", "-x509", *key, *files, "-subj", "/CN=a", *signs)
    (home / "names").write_text("subjectAltName=IP:127.0.0.1")
    for owner in ("server", "client"):
        openssl("req", *key, "-keyout", f"{owner}.key", "-out", f"{owner}.csr", "-subj", f"/CN={owner}")
        signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", "-in", f"{owner}.csr", "-out", f"{owner}.crt", *signing)
    return home


def tls_block(home: Path, more: str = "") -> str:
    """The server's settings; by its own it gives a handshake two seconds."""
    files = f'cert_file: "{home}/server.crt", key_file: "{home}/server.key", ca_file: "{home}/ca.crt"'
    return f"tls {{ {files}, timeout: 60{more} }}"


@pytest.mark.openssl
async def test_tls(tmp_path: Path, tls: Path) -> None:
    """The server's certificate must come from the configured authority."""
    with server(tmp_path, tls_block(tls)) as at:
        await works(at, BusConfig(ca=str(tls / "ca.crt")))
        await require_refusal(at, BusConfig(ca=str(tls / "other.crt")), "certificate verify failed")
        await require_refusal(at, BusConfig(), "certificate verify failed")


@pytest.mark.openssl
async def test_mutual_tls(tmp_path: Path, tls: Path) -> None:
    """The server accepts a client with a certificate from the same authority."""
    with server(tmp_path, tls_block(tls, ", verify: true")) as at:
        stranger = BusConfig(ca=str(tls / "ca.crt"))
        await works(at, replace(stranger, certificate=str(tls / "client.crt"), key=str(tls / "client.key")))
        await require_refusal(at, stranger, ".")


@pytest.mark.openssl
@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
async def test_a_missing_or_invalid_certificate_is_named(tmp_path: Path, tls: Path, field: str) -> None:
    """The reason names the file."""
    good = BusConfig(ca=str(tls / "ca.crt"), certificate=str(tls / "client.crt"), key=str(tls / "client.key"))
    wrong = tmp_path / "wrong.pem"
    with server(tmp_path, tls_block(tls)) as at:
        await require_refusal(at, replace(good, **{field: str(wrong)}), re.escape(str(wrong)))
        wrong.write_text("nothing of the kind")
        await require_refusal(at, replace(good, **{field: str(wrong)}), re.escape(str(wrong)))


@pytest.mark.openssl
async def test_no_password_goes_over_a_line_in_the_clear(
    tmp_path: Path, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an authority is configured, a server without TLS receives neither the password nor a message."""
    monkeypatch.setenv("SLUICE_NATS_PASSWORD", "right")
    with server(tmp_path, USERS) as at:
        await require_refusal(at, BusConfig(user="decision", ca=str(tls / "ca.crt")), "offers no TLS")


def pair(prefix: int) -> nkeys.KeyPair:
    """A new key pair."""
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


async def test_nkey(tmp_path: Path) -> None:
    """The seed is in a file; the server has the public key only."""
    own, other = pair(nkeys.PREFIX_BYTE_USER), pair(nkeys.PREFIX_BYTE_USER)
    for name, keys in (("own.nk", own), ("other.nk", other)):
        (tmp_path / name).write_text(keys.seed.decode())
    with server(tmp_path, f"authorization {{ users: [ {{ nkey: {own.public_key.decode()} }} ] }}") as at:
        await works(at, BusConfig(credentials=str(tmp_path / "own.nk")))
        await require_refusal(at, BusConfig(credentials=str(tmp_path / "other.nk")), REFUSED)
        await require_refusal(at, BusConfig(credentials=str(tmp_path / "missing.nk")), "missing.nk")


def sign(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, claims: dict[str, Any]) -> str:
    """A JSON Web Token in the format of NATS's operator mode."""

    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    body: dict[str, Any] = {
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "iat": int(time.time()),
    }
    body |= {"name": "test", "nats": {"version": 2, **claims}}
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    text = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(body)}"
    return f"{text}.{base64.urlsafe_b64encode(issuer.sign(text.encode())).decode().rstrip('=')}"


async def test_creds_file(tmp_path: Path) -> None:
    """A user's token and seed in one file, verified against operator and account."""
    operator, account, user = map(pair, (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER))
    system = pair(nkeys.PREFIX_BYTE_ACCOUNT)
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {**unlimited, "wildcards": True}
    of_account = sign(operator, account, {"type": "account", "limits": {**limits, **storage}})
    of_system = sign(operator, system, {"type": "account", "limits": limits})
    of_user = sign(account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    creds = tmp_path / "decision.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    accounts = {account.public_key.decode(): of_account, system.public_key.decode(): of_system}
    settings = f"""
        operator: {sign(operator, operator, {"type": "operator"})}
        system_account: {system.public_key.decode()}
        resolver: MEMORY
        resolver_preload: {{ {", ".join(f"{public}: {token}" for public, token in accounts.items())} }}
    """
    with server(tmp_path, settings) as at:
        await works(at, BusConfig(credentials=str(creds)))
        await require_refusal(at, BusConfig(), ".")
