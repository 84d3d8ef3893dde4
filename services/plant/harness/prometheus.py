"""Starts a Prometheus that scrapes the plant's page and answers the sampler's queries, as in a cluster.

Needs the program ``prometheus``.
"""

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

import aiohttp
import yaml

from schemas.config import Prometheus, Signal
from schemas.units import Duration
from services.plant.harness.pipeline import NotReady, find_free_ports
from services.plant.harness.processes import Processes

_SECOND = Duration(10**9)
_READY_S = 30.0
_POLL_S = 0.05


def build_prometheus_signal(url: str) -> Signal:
    """Build the signal of a Prometheus that scrapes every second; its window has the four scrapes a rate needs."""
    prometheus = Prometheus(url=url, scrape_interval=_SECOND)
    return Signal(source="prometheus", period=_SECOND, window=Duration(4 * _SECOND), prometheus=prometheus)


async def start_prometheus(processes: Processes, page: str, every: Duration = _SECOND) -> str:
    """Start a Prometheus that scrapes ``page`` at this interval; return its address once it answers.

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
    config.write_text(build_prometheus_config(page, every), encoding="utf-8")
    flags = {
        "config.file": config,
        "storage.tsdb.path": home / "data",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    await processes.start(name, "prometheus", *(f"--{name}={value}" for name, value in flags.items()))
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _READY_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            processes.check(name)
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return url
            await asyncio.sleep(_POLL_S)
    raise NotReady(f"prometheus is not ready after {_READY_S:g} s:\n{processes.tail(name)}")


def build_prometheus_config(page: str, every: Duration = _SECOND) -> str:
    """Write Prometheus's own configuration, with one page to scrape."""
    address = urlsplit(page)
    job = {
        "job_name": "factory",
        "metrics_path": address.path,
        "static_configs": [{"targets": [address.netloc]}],
    }
    times = {"scrape_interval": str(every), "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return str(yaml.safe_dump({"global": times, "scrape_configs": [job]}, sort_keys=False))
