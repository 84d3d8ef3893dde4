"""What ``kubectl sluice`` finds in the current context: the configuration, the bus's password, and its authority.

Everything is read with kubectl itself, so that every way to log in works that works for kubectl.  What it finds is
kept in files that only this user can read, and removed at the end.
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

_ACTUATOR = "sluice-actuator"
_SECRET = "sluice-bus"  # noqa: S105 - a name


class ContextError(Exception):
    """The current context has no Sluice, or does not let it be read; the text says what to do."""


class Cluster(Struct, frozen=True):
    """The current context, and a folder for files."""

    home: Path
    namespace: str
    kubectl: tuple[str, ...]
    """The command, with its global options."""

    @classmethod
    def connect(cls, home: Path, namespace: str, options: Sequence[str]) -> "Cluster":
        """Resolve kubectl's options, such as ``--context``, into a kubeconfig of its own in ``home``.

        Raises:
            ContextError: there is no kubectl, or no such context.
        """
        whole = _run("kubectl", *options, "config", "view", "--raw", "--minify", "--flatten")
        path = home / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(whole, encoding="utf-8")
        return cls(home, namespace, ("kubectl", f"--kubeconfig={path}", f"--namespace={namespace}"))

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with the current context alone."""
        return self.home / "kubeconfig"

    def write_config(self) -> Path:
        """Write the configuration that the actuator runs with to a file; return its path.

        Raises:
            ContextError: there is none.
        """
        pod = self._get_actuator()
        names = [one["configMap"]["name"] for one in pod.get("volumes", ()) if "configMap" in one]
        for name in names:
            text = self._get(f"configmap/{name}").get("data", {}).get("config.yaml")
            if text is not None:
                path = self.home / "config.yaml"
                path.write_text(text, encoding="utf-8")
                return path
        raise ContextError(f"{_ACTUATOR} in namespace {self.namespace} mounts no config.yaml")

    def read_password(self, user: str) -> str:
        """The password of a user of the bus.

        Raises:
            ContextError: it cannot be read.
        """
        return self._read_secret(_SECRET, user).decode()

    def write_authority(self) -> Path | None:
        """Write the authority of the bus's certificate to a file, and return its path; None without TLS.

        Raises:
            ContextError: it cannot be read.
        """
        (container, *_) = self._get_actuator()["containers"]
        if "SLUICE_NATS_CA" not in {one["name"] for one in container.get("env", ())}:
            return None
        path = self.home / "ca.crt"
        path.write_bytes(self._read_secret("sluice-bus-tls", "ca.crt"))
        return path

    def _read_secret(self, name: str, key: str) -> bytes:
        data = self._get(f"secret/{name}").get("data") or {}
        if key not in data:
            raise ContextError(f"the Secret {name} in namespace {self.namespace} has no key {key!r}")
        return base64.b64decode(data[key])

    def _get_actuator(self) -> dict[str, Any]:
        """The spec of the actuator's Pods; numbered replicas are a StatefulSet's."""
        try:
            tree = self._get(f"deployment/{_ACTUATOR}")
        except ContextError as error:
            if "NotFound" not in str(error):
                raise
            try:
                tree = self._get(f"statefulset/{_ACTUATOR}")
            except ContextError:
                raise error from None
        spec: dict[str, Any] = tree["spec"]["template"]["spec"]
        return spec

    def _get(self, what: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(_run(*self.kubectl, "get", what, "-o", "json"))
        return tree


def _run(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ContextError("there is no kubectl on PATH") from None
    if done.returncode:
        text = done.stderr.strip() or f"kubectl ended with {done.returncode}"
        hint = "; is Sluice in another namespace (-n)?" if "NotFound" in text else ""
        raise ContextError(f"{text}{hint}")
    return done.stdout
