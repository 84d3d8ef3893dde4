"""``kubectl sluice``: kubectl runs the program ``kubectl-sluice`` on PATH.

Each command is the one of ``sluice``.  Before it runs, what it needs is found in the current context: the
configuration, kubectl's cluster and user, and for commands that read the bus a forwarded port and a password.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from services.cli import COMMANDS, LazyGroup
from services.runtime.exit_codes import ExitCode
from services.tools.common.output import CommandError
from services.tools.kubectl.context import Cluster, ContextError
from services.tools.kubectl.port_forward import ForwardFailed, PortForward

_BUS_USERS = {
    "tap": "reader",
    "record": "reader",
    "audit": "reader",
    "explain": "reader",
    "report": "reader",
    "calibrate": "reader",
    "export": "reader",
    "ui": "reader",
    "check": "reader",
    "restore": "actuator",  # it reports what it did
}
"""The commands that use the bus, and as whom."""
_OTHERS = ("pause", "resume")
_MODULES = {name: COMMANDS[name] for name in (*_BUS_USERS, *_OTHERS)}
_VARIABLES = ("SLUICE_NATS_URL", "SLUICE_NATS_USER", "SLUICE_NATS_PASSWORD", "SLUICE_NATS_CA", "KUBECONFIG")


class Plugin(LazyGroup):
    """The commands that a person runs, each prepared before it is called."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and prepare what it needs."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None and not ctx.resilient_parsing and "--help" not in rest:
            given = command.make_context(name, list(rest), parent=ctx, resilient_parsing=True).params
            defaults = ctx.with_resource(prepare(name, given, **ctx.params))
            ctx.default_map = {**(ctx.default_map or {}), name: defaults}
        return name, command, rest


@contextmanager
def prepare(name: str, given: dict[str, Any], *, namespace: str, **options: str | None) -> Iterator[dict[str, str]]:
    """Set the environment for a command, and restore it; yields defaults of the command's parameters.

    Args:
        name: of the command.
        given: its parameters, as far as the command line has them.
        namespace: of Sluice.
        options: of kubectl, without their dashes.

    Raises:
        CommandError: something it needs cannot be found.
    """
    if given.get("file") is not None:  # a recording: nothing of the cluster is needed
        yield {}
        return
    for number in (signal.SIGTERM, signal.SIGHUP):  # end in order, so that no port stays forwarded
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    words = [f"--{key}={value}" for key, value in options.items() if value is not None]
    before = {key: os.environ.get(key) for key in _VARIABLES}
    with TemporaryDirectory(prefix="kubectl-sluice-") as home:
        try:
            cluster = Cluster.connect(Path(home), namespace, words)
            path = given.get("path")
            defaults = {} if path is not None else {"path": str(cluster.write_config())}
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
            if name not in _BUS_USERS or given.get("offline") or given.get("dry_run"):
                yield defaults
            else:
                with _forward(cluster, _BUS_USERS[name]):
                    yield defaults
        except (ContextError, ForwardFailed) as error:
            raise CommandError(error, ExitCode.UNAVAILABLE) from None
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


@contextmanager
def _forward(cluster: Cluster, user: str) -> Iterator[None]:
    """Lead the tools to the bus, as one of its users."""
    authority = cluster.write_authority()
    found = {"SLUICE_NATS_USER": user, "SLUICE_NATS_PASSWORD": cluster.read_password(user)}
    if authority is not None:
        found["SLUICE_NATS_CA"] = str(authority)
    with PortForward(cluster.kubectl, "svc/nats", 4222) as forward:
        found["SLUICE_NATS_URL"] = f"nats://127.0.0.1:{forward.port}"
        os.environ.update(found)
        yield


@click.group("kubectl-sluice", cls=Plugin, modules=_MODULES)
@click.option("-n", "--namespace", default="sluice", show_default=True, help="Where Sluice is installed.")
@click.option("--context", help="kubectl's context; the current one by default.")
@click.option("--kubeconfig", help="kubectl's configuration file.")
@click.version_option(package_name="sluice")
def main(**_: str | None) -> None:
    """Watch and steer the Sluice of the current context.

    Its configuration, its bus and its password are found by themselves.
    """
