"""Starts the pipeline on one machine: a NATS server, the three services, and perhaps a Prometheus.

Each is a process of its own.  The pipeline reads a plant's metrics page and writes to a Kubernetes API,
emulated or real.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec
import yaml

from schemas.config import BusConfig, Config, Kubernetes, Listen, Prometheus, Scrape, Signal
from schemas.domain import Domain
from schemas.units import Duration, encode_unit
from services.plant.harness.processes import Processes

SERVICES = ("decision", "actuator", "sampler")
"""In the order of their start: consumers before producers."""
_READY_S = 60.0
_PROMETHEUS_READY_S = 30.0
_POLL_S = 0.05
_SECOND = Duration(10**9)

_NATS = """\
listen: "127.0.0.1:-1"
ports_file_dir: "{home}"
jetstream {{ store_dir: "{home}/jetstream", max_file_store: 512MB }}
"""


class NotReady(RuntimeError):
    """A part did not start in time; the text has what it waits for."""


def find_program(name: str) -> Path:
    """Return the path of a program that was installed beside this Python."""
    return Path(sys.executable).parent / name


async def start_nats(processes: Processes, settings: str = "") -> str:
    """Start a nats-server with JetStream on a free port of loopback, and return its address.

    ``settings`` is appended to its configuration.

    Raises:
        NotReady: it does not listen in time.
        ProcessDied: it ended.
    """
    home = processes.home
    config = home / "nats.conf"
    config.write_text(_NATS.format(home=home) + settings, encoding="utf-8")
    await processes.start("nats", find_program("nats-server"), "-c", config)
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        processes.check("nats")
        for ports in home.glob("nats-server_*.ports"):
            if text := ports.read_text(encoding="utf-8"):
                return str(json.loads(text)["nats"][0])
        await asyncio.sleep(_POLL_S)
    raise NotReady(f"nats-server does not listen after {_READY_S:g} s:\n{processes.tail('nats')}")


def build_config(domains: Sequence[Domain], nats: str, kubernetes: Kubernetes, signal: Signal) -> Config:
    """Build the configuration of the three services; their health pages get free ports."""
    listen = Listen("127.0.0.1", *find_free_ports(3))
    bus = BusConfig(servers=(nats,), keep_bytes=64 * 1024 * 1024)
    return Config(domains=tuple(domains), bus=bus, signal=signal, kubernetes=kubernetes, listen=listen)


def build_scrape_signal(urls: Sequence[str], signal: Signal | None = None) -> Signal:
    """Make a signal, by default the default one, scrape these pages."""
    return msgspec.structs.replace(signal or Signal(), source="scrape", scrape=Scrape(urls=tuple(urls)))


def format_config(config: Config) -> str:
    """Write a configuration as YAML."""
    return str(yaml.safe_dump(msgspec.to_builtins(config, enc_hook=encode_unit), sort_keys=False))


async def start_page(config: Config, processes: Processes, port: int) -> str:
    """Start ``sluice ui`` on a port of loopback, or on another one if that is taken; return its address.

    Raises:
        NotReady: it does not answer in time.
        ProcessDied: it ended.
    """
    path = _write_config(config, processes)
    with socket.socket() as probe:
        # The server itself would take a port over from connections that are closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            port = 0
    if port == 0:
        [port] = find_free_ports(1)
    await processes.start("ui", find_program("sluice"), "ui", "--config", path, "--port", str(port))
    # A person who reads the address may open it at once.
    deadline = time.monotonic() + _READY_S
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return f"http://127.0.0.1:{port}/"
        processes.check("ui")
        if time.monotonic() > deadline:
            raise NotReady(f"the page does not answer after {_READY_S:g} s:\n{processes.tail('ui')}")
        await asyncio.sleep(_POLL_S)


def _write_config(config: Config, processes: Processes) -> Path:
    path = processes.home / "sluice.yaml"
    path.write_text(format_config(config), encoding="utf-8")
    return path


async def start_services(config: Config, processes: Processes) -> None:
    """Start the three services under a configuration, and wait until all are ready.

    Raises:
        NotReady: one is not ready in time.
        ProcessDied: one ended.
    """
    path = _write_config(config, processes)
    for name in SERVICES:
        await processes.start(name, find_program("sluice"), name, "--config", path)
    deadline = time.monotonic() + _READY_S
    waiting = dict.fromkeys(SERVICES, "not asked yet")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while waiting:
            if time.monotonic() > deadline:
                tails = "\n".join(f"{name}: {why}\n{processes.tail(name)}" for name, why in waiting.items())
                raise NotReady(f"not ready after {_READY_S:g} s:\n{tails}")
            for name in list(waiting):
                processes.check(name)
                try:
                    async with session.get(f"http://127.0.0.1:{getattr(config.listen, name)}/readyz") as answer:
                        waiting[name] = await answer.text()
                        if answer.status == 200:
                            del waiting[name]
                except (aiohttp.ClientError, TimeoutError) as error:
                    waiting[name] = f"no answer: {error}"
            await asyncio.sleep(_POLL_S)


def build_prometheus_signal(url: str) -> Signal:
    """Build the signal of a Prometheus that scrapes every second; its window has the four scrapes a rate needs."""
    prometheus = Prometheus(url=url, scrape_interval=_SECOND)
    return Signal(source="prometheus", period=_SECOND, window=Duration(4 * _SECOND), prometheus=prometheus)


async def start_prometheus(processes: Processes, pages: Sequence[str], every: Duration = _SECOND) -> str:
    """Start a Prometheus that scrapes ``pages`` at this interval; return its address once it answers.

    Raises:
        FileNotFoundError: the program is not installed.
        NotReady: it does not answer in time.
        ProcessDied: it ended.
    """
    [port] = find_free_ports(1)
    name = "prometheus" if every == _SECOND else f"prometheus-{every}"
    home = processes.home / name
    home.mkdir()
    config = home / "prometheus.yml"
    config.write_text(build_prometheus_config(pages, every), encoding="utf-8")
    flags = {
        "config.file": config,
        "storage.tsdb.path": home / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    await processes.start(name, "prometheus", *(f"--{name}={value}" for name, value in flags.items()))
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _PROMETHEUS_READY_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            processes.check(name)
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return url
            await asyncio.sleep(_POLL_S)
    raise NotReady(f"prometheus is not ready after {_PROMETHEUS_READY_S:g} s:\n{processes.tail(name)}")


def build_prometheus_config(pages: Sequence[str], every: Duration = _SECOND) -> str:
    """Write Prometheus's own configuration, with the pages to scrape."""
    addresses = [urlsplit(page) for page in pages]
    jobs = [
        {"job_name": one.netloc, "metrics_path": one.path, "static_configs": [{"targets": [one.netloc]}]}
        for one in addresses
    ]
    times = {"scrape_interval": str(every), "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return str(yaml.safe_dump({"global": times, "scrape_configs": jobs}, sort_keys=False))


def find_free_ports(count: int) -> list[int]:
    """Find TCP ports of loopback that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
