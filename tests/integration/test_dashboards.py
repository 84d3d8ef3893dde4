"""The Grafana dashboards: every query has a result on a Prometheus that scraped a run, and names a metric that exists.

.venv/bin/python -m pytest -s tests/integration/test_dashboards.py      # prints each panel's results
"""

import asyncio
import json
import math
import re
import runpy
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from msgspec import Struct

from schemas.config import Config, Kubernetes
from services.plant.commands.plant import serve
from services.plant.harness.pipeline import build_config, build_scrape_signal, start_nats, start_services
from services.plant.harness.processes import Processes
from services.plant.scenario import SCENARIOS
from tests.support.kube.manifests import MANIFESTS
from tests.support.ports import free_ports
from tests.support.prometheus_server import PrometheusServer
from tests.support.waiting import PATIENCE_S

HOME = MANIFESTS / "components" / "dashboards"
FILES: dict[Path, str] = runpy.run_path(str(HOME / "generate.py"))["render_all"]()
VARIABLES = {"$__rate_interval": "1m", "$domain": ".*", "$workload": ".*"}
"""What Grafana puts in place of them; `All` of a query variable is a regular expression."""


class Query(Struct, frozen=True):
    """One query of a panel."""

    dashboard: str
    panel: str
    legend: str
    text: str


def list_queries() -> Iterator[Query]:
    """Every query of every dashboard, as Grafana would send it."""
    for path in FILES:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for panel in tree["panels"]:
            for target in panel["targets"]:
                text = target["expr"]
                for name, value in VARIABLES.items():
                    text = text.replace(name, value)
                assert not re.search(r"\$(?!\d)", text), text  # $1 is of a regular expression
                yield Query(tree["title"], panel["title"], target["legendFormat"], text)


def describe(query: Query) -> str:
    """The first cells of its row in docs/dashboards.md."""
    legend = f"`{query.legend}`" if "{" in query.legend else query.legend
    return f"| {query.dashboard.removeprefix('Sluice: ')} | {query.panel} | {legend} |"


def ask(prometheus: PrometheusServer, query: str) -> list[tuple[dict[str, str], float]]:
    """The labels and the value of each result that is a number.

    Raises:
        AssertionError: Prometheus refused the query.
    """
    answer = requests.get(f"{prometheus.url}/api/v1/query", params={"query": query}, timeout=PATIENCE_S).json()
    assert answer["status"] == "success", answer
    found = [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]
    return [(labels, value) for labels, value in found if not math.isnan(value)]


def write_rules(home: Path) -> Path:
    """The recording rules and alerts, evaluated every second in place of every 15."""
    tree = yaml.safe_load((MANIFESTS / "prometheus-rules.yaml").read_text(encoding="utf-8"))
    path = home / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{**one, "interval": "1s"} for one in tree["groups"]]}), encoding="utf-8")
    return path


@asynccontextmanager
async def play(home: Path) -> AsyncIterator[tuple[Config, str]]:
    """The three services on a simulated factory that plays the demo; yields the configuration and the metrics page."""
    api, page = free_ports(2)
    scenario = SCENARIOS["demo"]
    plant = asyncio.create_task(serve(scenario, 1, "127.0.0.1", api, page))
    try:
        async with Processes(home) as processes:
            nats = await start_nats(processes)
            kubernetes = Kubernetes(server=f"http://127.0.0.1:{api}")
            signal = build_scrape_signal([f"http://127.0.0.1:{page}/metrics"])
            config = build_config([scenario.domain()], nats, kubernetes, signal)
            await start_services(config, processes)
            yield config, f"127.0.0.1:{page}"
    finally:
        plant.cancel()
        with suppress(asyncio.CancelledError):
            await plant


@pytest.mark.prometheus
async def test_no_panel_is_empty(tmp_path: Path) -> None:
    """Within a short run each query of each dashboard returns at least one number, and so does each variable."""
    queries = list(list_queries())
    async with play(tmp_path / "run") as (config, page):
        ports = (config.listen.sampler, config.listen.decision, config.listen.actuator)
        targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        job = f"- {{job_name: sluice, static_configs: [{{targets: [{targets}]}}]}}\n"
        rules = f"rule_files: ['{write_rules(tmp_path)}']\n"
        with PrometheusServer(tmp_path / "prometheus", scrape=(page,), jobs=job + rules) as prometheus:
            found: dict[Query, list[tuple[dict[str, str], float]]] = {}
            for _ in range(int(PATIENCE_S)):
                await asyncio.sleep(1.0)
                for one in queries:
                    # A window without data, as on a busy machine, takes nothing back.
                    if results := await asyncio.to_thread(ask, prometheus, one.text):
                        found[one] = results
                if len(found) == len(queries):
                    break
            empty = [one for one in queries if one not in found]
            assert not empty, "\n".join(f"{one.dashboard}: {one.panel}: {one.text}" for one in empty)
            for name in ("sluice_sampler_window_end_seconds", "sluice_sampler_observations"):
                assert await asyncio.to_thread(ask, prometheus, name)
    assert len(found) == len(queries) >= 40
    for one in queries:
        names = [" ".join(value for name, value in labels.items() if name != "__name__") for labels, _ in found[one]]
        values = [f"{name} {value:.4g}".strip() for name, (_, value) in zip(names, found[one], strict=True)]
        print(f"{describe(one)} {', '.join(values[:2])} |")


@pytest.mark.prometheus
def test_a_thousand_instances_leave_a_panel_readable(tmp_path: Path) -> None:
    """With 1,000 instances of a definition, 3 of them bad, no plot of the fleet has more than 20 lines."""
    series = []
    for number in range(1_000):
        domain = f'domain="uplink@node-{number}"'
        labels = f'target="factory/upload@node-{number}"'
        series += [
            (f"sluice_decision_stress_ratio{{{domain}}}", "3+0x5" if number % 400 == 7 else "0.5+0x5"),
            (f'sluice_sampler_samples_total{{{domain}, outcome="data"}}', "0+60x5"),
            (f"sluice_sampler_window_end_seconds{{{domain}}}", "0+60x5"),
            (f"sluice_limit_kbit{{{labels}}}", f"{1000 + number}+0x5"),
        ]
    plots = {one.text for one in list_queries() if one.dashboard == "Sluice: fleet"}
    (violated,) = [text for text in plots if "> bool 1" in text]
    expected = [(f"((count({text})) or vector(0)) <= bool 20", 1) for text in sorted(plots)]
    expected += [(f"sum({violated})", 3), (f"count({violated})", 1)]
    tests = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {"expr": text, "eval_time": "4m", "exp_samples": [{"labels": "{}", "value": value}]}
            for text, value in expected
        ],
    }
    path = tmp_path / "fleet.yaml"
    path.write_text(json.dumps({"tests": [tests]}), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


INSTANCES = """
sluice_decision_limit_kbit{domain="floor@n1",target="f/app"} 30
sluice_decision_limit_kbit{domain="floor@n2",target="f/app"} 7
sluice_decision_limit_kbit{domain="hall@eu-1",target="f/db"} 500
sluice_decision_limit_kbit{domain="line",target="f/app-2"} 9000
sluice_limit_kbit{target="f/app"} 37
sluice_limit_kbit{target="f/app@n1"} 30
sluice_limit_kbit{target="f/app@n2"} 7
sluice_limit_kbit{target="f/db@topology.kubernetes.io/zone=eu-1"} 500
sluice_limit_kbit{target="f/app-2"} 9000
sluice_target_paused{target="f/app@n1"} 1
sluice_target_paused{target="f/app-2"} 1
sluice_sampler_window_end_seconds{domain="floor@n1"} 1
sluice_sampler_window_end_seconds{domain="floor@n2"} 1
sluice_sampler_window_end_seconds{domain="line"} 1
"""
"""Definitions per node and per zone beside an ordinary domain, as the services show them."""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Serve the figures."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(INSTANCES.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Stay silent."""


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("domain", "decided", "in_force", "paused"),
    [("floor@n1", 30, 30, 1), ("floor@.*", 37, 37, 1), ("hall@eu-1", 500, 500, 0), (".*", 9537, 9537, 2)],
)
def test_panels_of_a_domain_know_its_instances(
    figures: PrometheusServer, domain: str, decided: int, in_force: int, paused: int
) -> None:
    """Of a definition per node, what is in force is that of the instances shown, and of no other target."""
    tree = json.loads((HOME / "sluice-domain.json").read_text(encoding="utf-8"))
    queries = {panel["title"]: panel["targets"][0]["expr"].replace("$domain", domain) for panel in tree["panels"]}
    for title, expected in (("Decided in all", decided), ("In force in all", in_force), ("Paused targets", paused)):
        assert [value for _, value in ask(figures, queries[title])] == [expected], title
    assert sum(value for _, value in ask(figures, queries["Limits in force"])) == in_force
    fleet = next(one.text for one in list_queries() if one.panel == "Instances of each definition")
    assert {labels["definition"]: value for labels, value in ask(figures, fleet)} == {"floor": 2, "line": 1}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A real Prometheus that has scraped the page."""
    page = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    serving = threading.Thread(target=page.serve_forever)
    serving.start()
    home = tmp_path_factory.mktemp("instances")
    try:
        with PrometheusServer(home, scrape=(f"127.0.0.1:{page.server_port}",)) as prometheus:
            deadline = time.monotonic() + PATIENCE_S
            while len(ask(prometheus, "sluice_limit_kbit")) < INSTANCES.count("sluice_limit_kbit"):
                assert time.monotonic() < deadline, "nothing was scraped"
                time.sleep(0.2)
            yield prometheus
    finally:
        page.shutdown()
        serving.join()
        page.server_close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_dashboard_is_up_to_date(path: Path) -> None:
    """``make schemas`` was run after the last change of generate.py."""
    assert path.read_text(encoding="utf-8") == FILES[path]


def test_every_panel_has_its_row() -> None:
    """docs/dashboards.md shows what each query of each panel gave, and no other panel."""
    page = (MANIFESTS.parent / "docs" / "dashboards.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| dashboard |")]
    assert [row for row in rows if row.endswith(("| |", "|  |"))] == []
    assert [row.rpartition(" |")[0].rpartition(" | ")[0] + " |" for row in rows] == [*map(describe, list_queries())]


def test_panels_are_complete() -> None:
    """Each has a title, a description and a place of its own on the grid; each dashboard has an address of its own."""
    trees: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
    assert len({tree["uid"] for tree in trees}) == len(trees) == 3
    for tree in trees:
        taken: set[tuple[int, int]] = set()
        for panel in tree["panels"]:
            assert panel["title"]
            assert panel["description"].endswith(".")
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_queries_use_existing_metrics() -> None:
    """Every metric in a query exists: `or vector(0)` would hide a renamed one."""
    reference = (MANIFESTS.parent / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(\w+)`", reference, re.MULTILINE))
    groups = yaml.safe_load((MANIFESTS / "prometheus-rules.yaml").read_text(encoding="utf-8"))["groups"]
    known |= {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    used = {
        name
        for one in list_queries()
        for name in re.findall(r"\b(?:sluice|hubble|namespace_workload)[a-z0-9_:]+", one.text)
    }
    assert len(used) >= 25
    assert {re.sub(r"_(bucket|count)$", "", name) for name in used} <= known
