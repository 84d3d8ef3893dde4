"""Tokens that are empty, missing or new, and authorities that Python alone would not trust."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import Kubernetes
from schemas.http import Http
from services.kube import access
from services.kube.access import KubeConfigError
from services.kube.client import KubeClient
from services.kube.objects import NotFound, Unavailable
from services.sampler.source import NoData
from tests.integration.sampler.test_answers import with_http
from tests.integration.sampler.test_sources import now, settings, source_for
from tests.support.actuators import ActuatorProcess, Decider, S, Scene
from tests.support.decision_services import join
from tests.support.kube import apiserver as kube
from tests.support.kube import servers
from tests.support.kube.servers import BANDWIDTH, eventually
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.openssl
NO_IDENTIFIERS = """
[req]
distinguished_name = name
prompt = no
[name]
CN = cluster
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[server]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1,DNS:localhost
"""


def issue(home: Path, config: str) -> Path:
    """``ca.crt`` and ``server.crt`` by a configuration of openssl, and their keys, in a new folder."""
    home.mkdir()
    (home / "openssl.cnf").write_text(config, encoding="utf-8")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=home, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "server"):
        run("req", "-new", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-config", "openssl.cnf")
    signed = ("-days", "2", "-extfile", "openssl.cnf")
    run("x509", "-req", "-in", "ca.csr", "-signkey", "ca.key", "-out", "ca.crt", *signed, "-extensions", "authority")
    issuer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    run("x509", "-req", "-in", "server.csr", *issuer, "-out", "server.crt", *signed, "-extensions", "server")
    return home


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.crt`` and ``server.crt`` without key identifiers, and their keys."""
    return issue(tmp_path_factory.mktemp("certificates") / "plain", NO_IDENTIFIERS)


@asynccontextmanager
async def serving(certificates: Path, tokens: list[str]) -> AsyncIterator[str]:
    """A server that takes note of the tokens, and its address."""

    async def answer(request: web.Request) -> web.Response:
        tokens.append(request.headers.get("Authorization", ""))
        return web.Response(status=404, text="{}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    server = TestServer(app)
    await server.start_server(ssl=context)
    try:
        yield str(server.make_url("/")).rstrip("/")
    finally:
        await server.close()


def pod_account(monkeypatch: pytest.MonkeyPatch, home: Path, url: str, certificates: Path) -> Path:
    """Make this process a Pod of that server; gives the token's path."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", home)
    (home / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())
    return home / "token"


async def test_a_token_is_read_for_every_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certificates: Path
) -> None:
    """Missing and empty ones are no answer, at the start too; a new one is used at once."""
    tokens: list[str] = []
    async with serving(certificates, tokens) as url:
        token = pod_account(monkeypatch, tmp_path, url, certificates)
        async with KubeClient.connect(Kubernetes()) as client:
            for text in (None, "", "\n"):
                if text is not None:
                    token.write_text(text, encoding="ascii")
                with pytest.raises(Unavailable, match="token"):
                    await client.fetch("/version")
            for text in ("first", "second\n"):
                token.write_text(text, encoding="ascii")
                with pytest.raises(NotFound):
                    await client.fetch("/version")
    assert tokens == ["Bearer first", "Bearer second"]


async def test_a_pod_without_an_authority_gets_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certificates: Path
) -> None:
    """Without it nothing can be trusted."""
    pod_account(monkeypatch, tmp_path, "https://127.0.0.1:1", certificates)
    (tmp_path / "ca.crt").write_text("", encoding="ascii")
    with pytest.raises(KubeConfigError, match=r"ca\.crt is missing or empty"):
        async with KubeClient.connect(Kubernetes()):
            pass


AUTHORITIES = {
    "no key identifiers": NO_IDENTIFIERS,
    "no key usage": NO_IDENTIFIERS.replace("keyUsage = critical,keyCertSign\n", ""),
    "basic constraints that are not critical": NO_IDENTIFIERS.replace("critical,CA:TRUE", "CA:TRUE"),
    "an identifier of the subject alone": NO_IDENTIFIERS.replace(
        "[server]", "subjectKeyIdentifier = hash\n[server]\nsubjectKeyIdentifier = hash"
    ),
    "usages that are not critical": NO_IDENTIFIERS.replace("critical,keyCertSign", "keyCertSign,cRLSign"),
    "a server that is no authority by silence": NO_IDENTIFIERS.replace("basicConstraints = CA:FALSE\n", ""),
}


@pytest.mark.parametrize("kind", AUTHORITIES)
async def test_an_authority_that_python_alone_refuses(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python 3.13 checks strictly by default, and kubectl does not; the API server's and the sources' clients."""
    create = ssl.create_default_context

    def create_strict(*args: object, **options: object) -> ssl.SSLContext:
        context = create(*args, **options)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_strict)
    certificates = issue(tmp_path / "certificates", AUTHORITIES[kind])
    async with serving(certificates, []) as url:
        pod_account(monkeypatch, tmp_path, url, certificates).write_text("x", encoding="ascii")
        async with KubeClient.connect(Kubernetes()) as client:
            with pytest.raises(NotFound):
                await client.fetch("/version")
        http = Http(ca=str(certificates / "ca.crt"))
        signal = with_http(settings("scrape", url), http)
        with source_for(signal) as source, pytest.raises(NoData, match="HTTP status 404"):
            await source.measure(now())


@pytest.mark.apiserver
async def test_the_fail_safe_limit_comes_over_an_empty_token(
    apiserver: kube.ApiServer, nats: NatsServer, tmp_path: Path
) -> None:
    """The token file is emptied by an interrupted copy while 60M is in force; nothing ends, and 10M comes with it."""
    async with servers.real(apiserver) as server, join(nats.url, "sluice") as bus:
        await server.deploy(replicas=2, template={BANDWIDTH: "10M"})
        await server.pods_of("app", 2)
        scene, decider = Scene(server, bus), Decider(bus, server.namespace)
        token, path = tmp_path / "token", apiserver.kubeconfig()
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree["users"][0]["user"] = {"tokenFile": str(token)}
        path.write_text(json.dumps(tree), encoding="utf-8")
        token.write_text(apiserver.token, encoding="ascii")
        server.config = Kubernetes(kubeconfig=str(path))
        with ActuatorProcess(tmp_path, nats.url, server, dead_man="3s") as process:
            await process.is_ready()
            await scene.enforce(decider, "60M", ["30M"] * 2, good_for=3 * S)
            token.write_text("", encoding="ascii")

            async def says_why() -> bool:
                ready, page = process.ready()
                return not ready and "token" in str(page["wrong"])

            await eventually(says_why)
            await asyncio.sleep(1)
            token.write_text(apiserver.token, encoding="ascii")
            await scene.wait_for_limits("10M", ["5M"] * 2)
            await process.is_ready()
