"""What a test may need beyond Python, make and the wheels of the development extra, and how to install it.

A marker names a part, and a part has requirements.  A test finds on PATH only the programs of its own markers.
A missing marker is therefore noticed on every machine, not only on a bare one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from msgspec import Struct

from services.plant.real import namespaces


def all_parts() -> bool:
    """Whether this machine claims to have everything that any test needs."""
    return os.environ.get("SLUICE_ALL_PARTS") == "1"


class Requirement(Struct, frozen=True):
    """One requirement that may be missing."""

    name: str
    install: str
    here: Callable[[], bool]
    asks: bool = False
    """Whether ``here`` asks the part's other requirements, and cannot tell without them."""


@cache
def program(name: str, package: str) -> Requirement:
    """A program on PATH, from a Debian package."""
    return Requirement(name, f"apt install {package}", lambda: shutil.which(name) is not None)


@cache
def version(name: str, least: tuple[int, int], install: str, *ask: str) -> Requirement:
    """A version of a program that is on PATH; ``ask`` are the arguments that make it print its version."""

    def here() -> bool:
        found = re.search(r"v(\d+)\.(\d+)", _output(name, *ask) or "")
        return found is not None and (int(found[1]), int(found[2])) >= least

    return Requirement(f"{name} {least[0]}.{least[1]}", install, here, asks=True)


def _output(*words: str) -> str | None:
    """What a command prints; None if it fails, hangs or does not exist."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_ANSWER_S)
        return done.stdout if done.returncode == 0 else None
    return None


def _root() -> bool:
    has_program = shutil.which("unshare") is not None
    return os.geteuid() == 0 and (not has_program or _output(*namespaces.enclose(["true"])) is not None)


def _python_index() -> bool:
    """Whether pip, as it is set up here, gets a package that every install of Sluice needs."""
    pinned = (Path(__file__).parents[2] / "requirements" / "cli.txt").read_text(encoding="utf-8")
    found = re.search(r"^click==\S+", pinned, re.MULTILINE)
    assert found is not None
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--dest", folder)
        return _output(*pip, found[0]) is not None


def _npm_registry() -> bool:
    return _output("npm", "view", "ajv", "version", "--fetch-retries=0") is not None


def _engine() -> bool:
    return _docker("version")


def _images() -> bool:
    compose = (Path(__file__).parents[2] / "docker-compose.yaml").read_text(encoding="utf-8")
    found = re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", compose)
    names = {os.environ.get(variable, usual) for variable, usual in found if variable.endswith("_IMAGE")}
    return all(_docker("image", "inspect", name) or _docker("pull", name) for name in names)


def _docker(*words: str) -> bool:
    return _output("docker", *words) is not None


_ANSWER_S = 60.0
"""How long a program has to answer, before it counts as missing."""
_NEWER = "install kubectl 1.21 or later: https://kubernetes.io/docs/tasks/tools (Debian 12 has an earlier one)"
_KUBECTL = Requirement("kubectl", _NEWER, lambda: shutil.which("kubectl") is not None)
_KUSTOMIZE = version("kubectl", (1, 21), _NEWER, "version", "--client")
"""Components of a kustomization need it."""
_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")


def _control_plane() -> bool:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return folder is not None and all((Path(folder) / name).exists() for name in _CONTROL_PLANE)


def _stores_custom_resources() -> bool:
    """Whether the API server survives a custom resource: early ones crash on it if Go 1.18 or later built them."""
    program = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / "kube-apiserver"
    text = _output(str(program), "--version") or ""
    found = re.search(r"v1\.(\d+)", text)
    return "custom-resources" in text or (found is not None and int(found[1]) >= 24)


PARTS: dict[str, tuple[Requirement, ...]] = {
    "root": (
        *(program(name, "util-linux") for name in ("unshare", "nsenter", "chrt")),
        *(program(name, "iproute2") for name in ("ip", "tc")),
        program("iperf3", "iperf3"),
        program("nginx", "nginx-light"),
        Requirement("root", "run as root, with the right to make namespaces (CAP_SYS_ADMIN)", _root),
    ),
    "apiserver": (
        program("openssl", "openssl"),
        _KUBECTL,
        _KUSTOMIZE,
        Requirement(
            "kube-apiserver",
            f"set KUBEBUILDER_ASSETS to a folder with {', '.join(_CONTROL_PLANE)}",
            _control_plane,
        ),
    ),
    "customresources": (
        Requirement(
            "custom resources",
            "a kube-apiserver of Kubernetes 1.24 or later, or an earlier one that `.ci/kube-apiserver` built",
            _stores_custom_resources,
        ),
    ),
    "kubectl": (_KUBECTL, _KUSTOMIZE),
    "helm": (
        _KUBECTL,
        Requirement(
            "helm",
            "install helm 3.14 or later: https://helm.sh/docs/intro/install",
            lambda: shutil.which("helm") is not None,
        ),
    ),
    "openssl": (program("openssl", "openssl"),),
    "docker": (
        program("docker", "docker.io"),
        program("docker-compose", "docker-compose"),
        Requirement("Docker engine", "start dockerd, and put this user into the group docker", _engine, asks=True),
        Requirement(
            "container images",
            "reach a registry, or name images that are here: PYTHON_IMAGE, NATS_IMAGE",
            _images,
            asks=True,
        ),
    ),
    "prometheus": (program("prometheus", "prometheus"), program("promtool", "prometheus")),
    "victoria_metrics": (program("victoria-metrics", "victoria-metrics"),),
    "browser": (program("chromium", "chromium"),),
    "node": (
        program("node", "nodejs"),
        program("npm", "npm"),
        version("node", (18, 0), "a newer Node.js from nodejs.org", "--version"),
        Requirement("npm registry", "reach a registry of npm packages", _npm_registry, asks=True),
    ),
    "index": (Requirement("Python packages", "reach an index of Python packages", _python_index),),
}
"""Requirements by marker."""

OPTIONAL = frozenset(
    {one.name for part in PARTS.values() for one in part if one.install.startswith("apt ")}
    | {"kubectl", "helm", "chromium-browser", "google-chrome", "nodejs", "npx", "dockerd"}
)
"""Programs that a test finds on PATH only if its own marker names them."""


@cache
def lacking(marker: str) -> tuple[Requirement, ...]:
    """The requirements of a part that this machine lacks."""
    missing: list[Requirement] = []
    for one in PARTS[marker]:
        is_hidden = one.asks and bool(missing)
        if not is_hidden and not one.here():
            missing.append(one)
    return tuple(missing)


@cache
def _executables() -> dict[str, Path]:
    """Every program on PATH; of two with one name, the first."""
    found: dict[str, Path] = {}
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        # A folder on PATH need not exist, and this user need not be allowed to read it.
        with suppress(OSError):
            for path in Path(folder).absolute().iterdir():
                if os.access(path, os.X_OK) and path.is_file():
                    found.setdefault(path.name, path)
    return found


def narrow_path(markers: Collection[str], home: Path) -> str:
    """A folder below ``home`` with every program on PATH except those of other parts; created if needed."""
    chosen = sorted(set(markers) & set(PARTS))
    folder = home / ("-".join(chosen) or "plain")
    if not folder.exists():
        folder.mkdir(parents=True)
        ours = {one.name for marker in chosen for one in PARTS[marker]}
        for name, path in _executables().items():
            if name not in OPTIONAL or name in ours:
                (folder / name).symlink_to(path)
    return str(folder)


def list_missing(skipped: Collection[Collection[str]]) -> Iterator[str]:
    """Lines that name what to install: for each missing requirement, how many tests need it.

    Args:
        skipped: for each test that was skipped, the markers whose parts are missing.
    """
    waiting: dict[Requirement, int] = {}
    for markers in skipped:
        for one in dict.fromkeys(one for marker in markers for one in lacking(marker)):
            waiting[one] = waiting.get(one, 0) + 1
    for one, count in sorted(waiting.items(), key=lambda row: (-row[1], row[0].name)):
        yield f"{one.name:20}{count:>5} test{'s' if count > 1 else ' '}   {one.install}"
