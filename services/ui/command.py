"""``sluice ui``: serve the live page.  It reads the bus with a reader's rights, and publishes nothing."""

import asyncio
import ipaddress
from contextlib import AsyncExitStack, suppress

import click

from services.runtime import service
from services.runtime.exit_codes import ExitCode
from services.tools.common.message_source import MessageSource, source_options
from services.tools.common.output import CommandError, print_line, print_warning
from services.ui.broadcast import Broadcaster
from services.ui.guard import LOOPBACK
from services.ui.server import UiServer, serve
from services.ui.sources import LiveSource, Recordings

PORT = 9970


@click.command("ui")
@source_options
@click.option("--listen", "host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Port to listen on; 0: a free one."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    help="A name by which browsers may call the page, besides those of loopback; * is any.  May be given again.",
)
@click.option("--user-header", help="Answer only where a proxy in front names a user in this header.")
@click.option(
    "--uploads/--no-uploads", default=True, show_default=True, help="Whether recordings may be dropped on it."
)
def command(
    source: MessageSource, host: str, port: int, hosts: tuple[str, ...], user_header: str | None, uploads: bool
) -> None:
    """Serve a live page over the bus, or over a recording FILE.

    It only reads, and has no login: it listens on this machine's loopback alone, unless set otherwise.
    """
    # A variable that is not set must not open the page to everybody.
    for option, value in (
        ("--listen", host),
        ("--user-header", user_header),
        *(("--allow-host", one) for one in hosts),
    ):
        if value is not None and not value.strip():
            raise click.UsageError(f"{option} is empty")
    if not _is_loopback(host):
        print_warning(f"{host} is reachable from outside, and the page has no login: put a proxy with one in front")
    allowed = {*LOOPBACK, host.lower(), *(one.lower() for one in hosts)}
    try:
        service.run(_run(source, (host, port), allowed, user_header, uploads=uploads))
    except OSError as error:
        raise CommandError(f"{host}:{port}: {error.strerror}", ExitCode.UNREADABLE) from None


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _run(
    source: MessageSource, address: tuple[str, int], hosts: set[str], user_header: str | None, *, uploads: bool
) -> None:
    """Serve until cancelled."""
    recordings = Recordings(uploads=uploads)
    live, broadcaster = None, None
    if source.reader is None:
        live = LiveSource(source.domains, source.name)
        broadcaster = Broadcaster(source.settings, live)
    async with AsyncExitStack() as stack:
        stack.callback(recordings.close)
        if source.reader is not None:
            await recordings.add_file(source.reader.path)
        application = UiServer(live, broadcaster, recordings).build_application(hosts, user_header)
        port = await stack.enter_async_context(serve(application, *address))
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print_line(f"http://{shown}:{port}/")
        if broadcaster is not None:
            await broadcaster.run()
        await asyncio.Event().wait()
