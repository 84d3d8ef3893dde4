"""Kubeconfigs, read by Kubernetes's library into what a request needs."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.kube.access import KubeConfigError, read_token
from services.kube.kubeconfig import read_kubeconfig


def write(home: Path, cluster: dict[str, Any], user: dict[str, Any]) -> str:
    """A kubeconfig with one context."""
    tree = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me"}}],
        "clusters": [{"name": "it", "cluster": {"server": "https://api:6443/", **cluster}}],
        "users": [{"name": "me", "user": user}],
    }
    path = home / "config"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return str(path)


def test_what_a_request_needs_is_read(tmp_path: Path) -> None:
    """Authority and certificate as data, the certificate's name, and a proxy."""
    data = base64.b64encode(b"pem").decode()
    cluster = {"certificate-authority-data": data, "tls-server-name": "kubernetes", "proxy-url": "http://proxy:3128"}
    user = {"client-certificate-data": data, "client-key-data": data}
    access = asyncio.run(read_kubeconfig(write(tmp_path, cluster, user)))
    assert (access.url, access.server_name, access.proxy) == ("https://api:6443", "kubernetes", "http://proxy:3128")
    assert access.is_verified
    assert (access.authorization, access.token_file) == (None, None)
    for path in (access.authority, access.certificate, access.key):
        assert path is not None
        assert Path(path).read_bytes() == b"pem"


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": "abc"}, "Bearer abc"),
        ({"username": "me", "password": "x"}, "Basic bWU6eA=="),
        ({"tokenFile": "token"}, "Bearer first"),
    ],
)
def test_the_header_of_a_request(user: dict[str, Any], header: str, tmp_path: Path) -> None:
    """A file beside the kubeconfig is read anew for every request."""
    (tmp_path / "token").write_text("first", encoding="ascii")
    access = asyncio.run(read_kubeconfig(write(tmp_path, {"insecure-skip-tls-verify": True}, user)))
    assert not access.is_verified
    if access.token_file is None:
        assert access.authorization == header
    else:
        assert read_token(access.token_file) == header
        (tmp_path / "token").write_text("second", encoding="ascii")
        assert read_token(access.token_file) == "Bearer second"


@pytest.mark.parametrize("text", ["", "[]", "a: [", "users: 1", "current-context: here", "contexts: [{}]", "\x00"])
def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path) -> None:
    """Whatever the library makes of it."""
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KubeConfigError, match=str(path)):
        asyncio.run(read_kubeconfig(str(path)))


def test_a_context_without_its_user_is_named(tmp_path: Path) -> None:
    """Its name was misspelt."""
    path = Path(write(tmp_path, {}, {"token": "abc"}))
    path.write_text(path.read_text(encoding="utf-8").replace("user: me", "user: you"), encoding="utf-8")
    with pytest.raises(KubeConfigError, match=str(path)):
        asyncio.run(read_kubeconfig(str(path)))
