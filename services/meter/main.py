"""``sluice meter``: wires the pod watch, the host's network and the page."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import click

from schemas.config import Config
from services.common.listening import resolve_host
from services.common.os_errors import describe_os_error
from services.common.redaction import hide_passwords
from services.kube.access import Access, KubeConfigError, find_access, https_url
from services.kube.plain_client import PlainClient
from services.meter.endpoints import EndpointDevices
from services.meter.host_network import HostNetwork
from services.meter.kubelet import KubeletCounters
from services.meter.page import CONTENT_TYPE, PageBuilder
from services.meter.pod_watch import PodWatch
from services.meter.reading import NodeMeter, OtherSources
from services.meter.server import PageAnswer, PageServer, answer_json
from services.runtime.config_loader import ConfigError, load
from services.runtime.exit_codes import CommandFailure, ExitCode
from services.runtime.option_types import ConfigFile
from services.runtime.plain_logging import configure

_SOURCES_S = 1.0
"""How often endpoints of new pods are asked for."""
_KUBELET_S = 5.0
"""How often the kubelet's page is read, which changes every 10 to 15 s."""


@click.command()
@click.option("--config", "path", type=ConfigFile(), required=True, help="The configuration file.")
@click.option("--node", envvar="NODE_NAME", required=True, help="Name of the node whose pods are measured.")
@click.option("--host", envvar="POD_IP", help="Address to listen on, instead of listen.host.")
@click.option(
    "--proc", type=click.Path(path_type=Path), default="/proc/self/net", help="Where the node's network is read."
)
def command(path: Path, node: str, host: str | None, proc: Path) -> None:
    """Measure: export the bytes that each pod of this node sends and receives."""
    try:
        config = load(path)
        network = HostNetwork(proc)
        access = find_access(config.kubernetes)
    except OSError as error:
        raise CommandFailure(f"--proc: {describe_os_error(error)}", ExitCode.UNREADABLE) from None
    except (ConfigError, KubeConfigError) as error:
        raise CommandFailure(error, ExitCode.UNREADABLE) from None
    configure("meter", config.log)
    service = MeterService(config, access, network, node)
    listen = host or config.listen.host
    try:
        server = PageServer(resolve_host(listen), config.listen.meter, service.answer)
    except OSError as error:
        raise click.ClickException(f"listen: {listen}:{config.listen.meter}: {error.strerror}") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    service.start()
    server.serve_forever(poll_interval=5)


class MeterService:
    """The parts of one node's meter."""

    def __init__(self, config: Config, access: Access, network: HostNetwork, node: str) -> None:
        """Wire them; nothing is requested yet."""
        timeout_s = config.kubernetes.timeout.seconds
        api = PlainClient(access, timeout_s)
        self._watch = PodWatch(api, node)
        self._network = network
        self._meter = NodeMeter(network, trust_netkit=config.meter.trust_netkit)
        self._page = PageBuilder(node)
        self._network_problem: str | None = None
        """Why the devices could not be read for the endpoints."""
        self._kubelet_due = 0.0
        self._reading = threading.Lock()
        self._endpoints = EndpointDevices(api) if config.meter.endpoints else None
        self._kubelet = None
        if config.meter.kubelet != "off":
            kubelet = Access(
                url=https_url(os.environ.get("NODE_IP", "127.0.0.1"), config.meter.kubelet_port),
                authority=access.authority,
                authorization=access.authorization,
                token_file=access.token_file,
                is_verified=config.meter.kubelet == "verified",
            )
            self._kubelet = KubeletCounters(PlainClient(kubelet, timeout_s), timeout_s)

    def start(self) -> None:
        """Start the threads, which end with the process."""
        threading.Thread(target=self._watch.run, name="pods", daemon=True).start()
        if self._endpoints is not None or self._kubelet is not None:
            threading.Thread(target=self._run_sources, name="sources", daemon=True).start()

    def _run_sources(self) -> None:
        while True:
            self.update_sources()
            time.sleep(_SOURCES_S)

    def update_sources(self) -> None:
        """Ask for endpoints of new pods, and for the kubelet's page where that is due."""
        pods = self._watch.pods
        if self._endpoints is not None:
            try:
                devices = self._network.read_counters()
            except OSError as error:
                self._network_problem = describe_os_error(error)
            else:
                self._network_problem = None
                self._endpoints.update(pods, devices)
        if self._kubelet is not None and time.monotonic() >= self._kubelet_due:
            self._kubelet_due = time.monotonic() + _KUBELET_S
            self._kubelet.update(pods)

    def _list_problems(self) -> dict[str, str]:
        """What is not known now, and why, by its source."""
        sources = {"pods": self._watch, "endpoints": self._endpoints, "kubelet": self._kubelet}
        found = {name: source.problem for name, source in sources.items() if source is not None}
        found["network"] = self._network_problem
        return {name: hide_passwords(problem) for name, problem in found.items() if problem is not None}

    def _gather_sources(self) -> OtherSources:
        """What endpoints and the kubelet tell, where they are asked."""
        if self._endpoints is None and self._kubelet is None:
            return OtherSources()
        problems, faults = self._list_problems(), []
        if self._endpoints is not None:
            faults.append(f"endpoints: {problems.get('endpoints', 'none names a device that is there')}")
        if self._kubelet is not None:
            faults.append(f"kubelet: {problems.get('kubelet', 'its page has no counter of the pod')}")
        return OtherSources(
            names=self._endpoints.names if self._endpoints is not None else {},
            counters=self._kubelet.counters if self._kubelet is not None else {},
            faults=tuple(faults),
        )

    def answer(self, path: str, query: dict[str, list[str]]) -> PageAnswer:
        """Answer a request; ``/metrics?namespace=NAME`` leaves other namespaces' pods out."""
        if path == "/metrics":
            return self._build_page(query.get("namespace", []))
        if path == "/readyz":
            wrong = {} if self._watch.listed.is_set() else {"pods": hide_passwords(self._watch.problem or "not yet")}
            body: dict[str, object] = {"ready": not wrong, "wrong": wrong}
            notes = self._list_problems()
            if notes and not wrong:
                body["notes"] = notes
            return answer_json(503 if wrong else 200, body)
        if path == "/healthz":
            return answer_json(200, {"healthy": True})
        return PageAnswer(404, "text/plain", b"there are /metrics, /healthz and /readyz\n")

    def _build_page(self, namespaces: list[str]) -> PageAnswer:
        if not self._watch.listed.is_set():
            # A page without pods would say that nothing is sent.
            return PageAnswer(503, "text/plain", f"pods: {hide_passwords(self._watch.problem or 'not yet')}\n".encode())
        try:
            with self._reading:
                reading = self._meter.read(self._watch.pods, self._gather_sources())
                page = self._page.build(reading, watching=self._watch.problem is None, namespaces=frozenset(namespaces))
        except OSError as error:
            return PageAnswer(503, "text/plain", f"the host's network: {error.strerror}\n".encode())
        return PageAnswer(200, CONTENT_TYPE, page)
