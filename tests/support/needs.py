"""What a test may need beyond Python, make and the wheels of the development extra, and how to install it.

A marker names a part, and a part has requirements.  A test finds on PATH only the programs of its own markers.
A missing marker is therefore noticed on every machine, not only on a bare one.
"""

import os
import re
import shutil
import subprocess
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


@cache
def program(name: str, package: str) -> Requirement:
    """A program on PATH, from a Debian package."""
    return Requirement(name, f"apt install {package}", lambda: shutil.which(name) is not None)


def _root() -> bool:
    try_out = namespaces.enclose(["true"])
    return os.geteuid() == 0 and subprocess.run(try_out, check=False, capture_output=True).returncode == 0


def _engine() -> bool:
    return _docker("version")


def _images() -> bool:
    compose = (Path(__file__).parents[2] / "docker-compose.yaml").read_text(encoding="utf-8")
    found = re.findall(r"\$\{(\w+_IMAGE):-([^}]+)\}", compose)
    names = {os.environ.get(str(variable), str(usual)) for variable, usual in found}
    return all(_docker("image", "inspect", name) or _docker("pull", name) for name in names)


def _docker(*words: str) -> bool:
    return subprocess.run(["docker", *words], check=False, capture_output=True).returncode == 0


_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager")


def _control_plane() -> bool:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return folder is not None and all((Path(folder) / name).exists() for name in _CONTROL_PLANE)


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
        program("kubectl", "kubernetes-client"),
        Requirement(
            "kube-apiserver",
            f"set KUBEBUILDER_ASSETS to a folder with {', '.join(_CONTROL_PLANE)}",
            _control_plane,
        ),
    ),
    "kubectl": (program("kubectl", "kubernetes-client"),),
    "helm": (
        program("kubectl", "kubernetes-client"),
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
        Requirement("Docker engine", "start dockerd, and put this user into the group docker", _engine),
        Requirement(
            "container images", "reach a registry, or name images that are here: PYTHON_IMAGE, NATS_IMAGE", _images
        ),
    ),
    "prometheus": (program("prometheus", "prometheus"), program("promtool", "prometheus")),
    "browser": (program("chromium", "chromium"),),
    "node": (program("node", "nodejs"), program("npm", "npm")),
}
"""Requirements by marker."""

OPTIONAL = frozenset(
    {one.name for part in PARTS.values() for one in part if one.install.startswith("apt ")}
    | {"helm", "chromium-browser", "google-chrome", "nodejs", "npx", "dockerd"}
)
"""Programs that a test finds on PATH only if its own marker names them."""


@cache
def lacking(marker: str) -> tuple[Requirement, ...]:
    """The requirements of a part that this machine lacks."""
    missing: list[Requirement] = []
    for one in PARTS[marker]:
        # The images cannot be looked up without the engine's client, nor the engine without it.
        is_hidden = one.here in (_engine, _images) and bool(missing)
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
