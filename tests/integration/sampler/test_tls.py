"""TLS of both sources against real servers: a private authority, mutual TLS, another name, certificates that rotate."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.http import Http
from services.sampler.source import NoData
from tests.integration.sampler.test_answers import with_http
from tests.integration.sampler.test_sources import Name, now, settings, source_for

pytestmark = pytest.mark.openssl

BODY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'


def openssl(*words: str | Path) -> None:
    """Run it."""
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def issue(home: Path, name: str, subject: str) -> tuple[Path, Path]:
    """A certificate of the authority in ``home``, made if need be; gives the paths of certificate and key."""
    ca, ca_key = home / "ca.crt", home / "ca.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    if not ca.exists():
        openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-subj", "/CN=authority", "-days", "2")
    certificate, key, request = home / f"{name}.crt", home / f"{name}.key", home / f"{name}.csr"
    openssl("req", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    (home / "ext").write_text(f"subjectAltName={subject}\n")
    signed = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", home / "ext")
    openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
    return certificate, key


@contextmanager
def served(home: Path, subject: str, body: bytes, kind: str, *, mutual: bool) -> Iterator[str]:
    """Serve a body over TLS; gives the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A handshake that fails is what some tests want."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issue(home, "server", subject))
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(home / "ca.crt")
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", ["scrape", "prometheus"])
async def test_tls_of_every_kind(name: Name, tmp_path: Path) -> None:
    """Without the authority, the client's certificate or the right name nothing is read; with them it is."""
    body, kind = (b"up 1\n", "text/plain") if name == "scrape" else (BODY, "application/json")
    with served(tmp_path, "DNS:metrics.example", body, kind, mutual=True) as url:
        certificate, key = issue(tmp_path, "client", "DNS:sluice")
        known: dict[str, Any] = {"ca": str(tmp_path / "ca.crt"), "server_name": "metrics.example"}
        mine: dict[str, Any] = {"certificate": str(certificate), "key": str(key)}
        for http_, why in (
            (Http(server_name="metrics.example", **mine), "certificate verify failed|CERTIFICATE_VERIFY_FAILED"),
            (Http(ca=known["ca"], **mine), "(?i)certificate.*(127.0.0.1|mismatch)|match"),
            (Http(**known), "(?i)certificate required|alert|reset|aborted|broken|eof"),
            (Http(ca=str(tmp_path / "nothing"), **mine), "(?i)invalid path|no such file"),
        ):
            with source_for(with_http(settings(name, url), http_)) as source, pytest.raises(NoData, match=why):
                await source.measure(now())
        with source_for(with_http(settings(name, url), Http(**known, **mine))) as source:
            await source.measure(now())
            # The certificate is replaced: the next connection takes it.
            issue(tmp_path, "client", "DNS:sluice")
            await source.measure(now() + 10**9)
