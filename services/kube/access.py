"""Where the API server is, and with which credentials it is asked.

A pod's service account, a kubeconfig with a token, or an address that asks for no credentials.  Kubeconfigs of every
other kind are read in `kubeconfig`.
"""

import os
import ssl
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from schemas.config import Kubernetes
from services.common.os_errors import describe_os_error

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a Pod finds its account's token and the cluster's authority."""


class KubeConfigError(Exception):
    """The API server's address or credentials cannot be used."""


class Access(Struct, frozen=True):
    """How one server is reached."""

    url: str
    """``https://HOST:PORT``."""
    authority: str | None = None
    """Path of the authority that signed its certificate."""
    authorization: str | None = None
    """The header of every request, such as ``Bearer TOKEN``; None without one, and with ``token_file``."""
    token_file: str | None = None
    """Path of a token that is replaced from time to time: ``read_token`` gives each request's header."""
    is_verified: bool = True
    """Whether the server's certificate has to be valid."""
    certificate: str | None = None
    """Path of the client's certificate."""
    key: str | None = None
    """Path of its private key."""
    server_name: str | None = None
    """The name in the server's certificate, where it is not the host's."""
    proxy: str | None = None
    """URL of the proxy in between; None: by the environment."""

    def build_tls(self) -> ssl.SSLContext | None:
        """The TLS settings; None for plain HTTP.

        Raises:
            OSError: the authority or the client's certificate cannot be read, or is none.
        """
        if not self.url.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self.authority)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        # As kubectl does: the authorities of many clusters have no key identifiers, which Python 3.13 insists on.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def read_token(path: str) -> str:
    """Read the token in a file as the header ``Authorization``.

    Raises:
        KubeConfigError: the file cannot be read, or holds no token now.
    """
    try:
        token = Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KubeConfigError(f"{path} cannot be read: {error}") from None
    if not token:
        raise KubeConfigError(f"{path} is empty")
    if not (token.isascii() and token.isprintable()):
        raise KubeConfigError(f"{path} holds no token: other letters than those of one line of ASCII")
    return f"Bearer {token}"


def find_access(config: Kubernetes) -> Access:
    """Find the configured API server; it need not be there yet.

    Raises:
        KubeConfigError: there is no kubeconfig or service account, or it cannot be used.
    """
    if config.server is not None:
        return Access(config.server.rstrip("/"))
    if config.kubeconfig is not None:
        return _read_kubeconfig(Path(config.kubeconfig))
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    authority = SERVICE_ACCOUNT / "ca.crt"
    if not host or not port:
        reason = "KUBERNETES_SERVICE_HOST or _PORT is not set"
    elif not authority.is_file() or not authority.stat().st_size:
        reason = f"{authority} is missing or empty"
    else:
        return Access(https_url(host, port), str(authority), token_file=str(SERVICE_ACCOUNT / "token"))
    remedy = "not running in a Pod: set kubernetes.kubeconfig or kubernetes.server in the configuration"
    raise KubeConfigError(f"kubernetes: {remedy} ({reason})")


def https_url(host: str, port: int | str) -> str:
    """The URL of a server; an IPv6 address is put in brackets."""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _read_kubeconfig(path: Path) -> Access:
    """The current context's server and token."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = _named(tree, "context", tree["current-context"])
        cluster, user = _named(tree, "cluster", context["cluster"]), _named(tree, "user", context["user"])
        url = str(cluster["server"]).rstrip("/")
    except OSError as error:
        raise KubeConfigError(f"kubernetes: {describe_os_error(error)}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise KubeConfigError(f"kubernetes: {path}: not a kubeconfig: it is no YAML") from None
    except (KeyError, TypeError, StopIteration) as error:
        raise KubeConfigError(f"kubernetes: {path}: not a kubeconfig: {error}") from None
    if not user.get("token") and not user.get("tokenFile"):
        raise KubeConfigError(
            f"kubernetes: {path}: the meter needs a token, or a file with one, and knows no other way"
        )
    if cluster.get("certificate-authority-data") or cluster.get("insecure-skip-tls-verify"):
        raise KubeConfigError(f"kubernetes: {path}: the meter needs certificate-authority, a file")

    def beside(name: str | None) -> str | None:
        return None if name is None else str(path.parent / name)

    return Access(
        url=url,
        authority=beside(cluster.get("certificate-authority")),
        authorization=f"Bearer {user['token']}" if user.get("token") else None,
        token_file=beside(user.get("tokenFile")),
    )


def _named(tree: Any, kind: str, name: str) -> dict[str, Any]:
    return dict(next(one[kind] for one in tree[f"{kind}s"] if one["name"] == name))
