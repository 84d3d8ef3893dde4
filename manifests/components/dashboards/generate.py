"""Writes the Grafana dashboards: ``python manifests/components/dashboards/generate.py`` (make schemas).

A panel is a line here: title, unit, queries by legend, and what to look for.  ``tests/integration/test_dashboards.py``
evaluates each query on a Prometheus that scraped a run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _STAT_WIDTH, _HEIGHT, _STAT_HEIGHT = 12, 4, 8, 4
"""Of Grafana's grid, which is 24 units wide."""
_OURS = 'job=~".*sluice.*"'
"""The services' own scrape job: `sluice`, or `NAMESPACE/sluice` with the Prometheus Operator."""


def _panel(kind: str, title: str, unit: str, queries: dict[str, str], text: str, **defaults: Any) -> dict[str, Any]:
    targets = [
        {"refId": chr(65 + number), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
        for number, (legend, query) in enumerate(queries.items())
    ]
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
    }


def plot(title: str, unit: str, queries: dict[str, str], text: str) -> dict[str, Any]:
    """A panel over time; ``queries`` are PromQL by legend."""
    return _panel("timeseries", title, unit, queries, text)


def stat(title: str, query: str, text: str, *, unit: str = "short", bad_from: float | None = None) -> dict[str, Any]:
    """A panel with one number; red from ``bad_from`` on, otherwise without a colour."""
    steps: list[dict[str, Any]] = [{"color": "green" if bad_from is not None else "text", "value": None}]
    if bad_from is not None:
        steps.append({"color": "red", "value": bad_from})
    return _panel("stat", title, unit, {"": query}, text, thresholds={"mode": "absolute", "steps": steps})


def _quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))"


_WORST = 20
"""A plot of a fleet shows so many of its domains, the worst at each time."""
_STRESS = "max by (domain) (sluice_decision_stress_ratio)"


def _by_definition(aggregate: str, query: str) -> str:
    """Take a query by domain together by definition; a domain that is no instance stands for itself."""
    return f'{aggregate} label_replace({query}, "definition", "$1", "domain", "([^@]+).*"))'


_DECIDED = (
    'max by (part) (label_join(label_replace(sluice_decision_limit_kbit{domain=~"$domain"}, '
    '"place", "$1", "domain", ".*(@.*)"), "part", "", "target", "place"))'
)
"""The targets that the domains shown decide on.  An instance of a definition per node has a part of each, whose name
ends with the instance's place."""


def _of_domain(gauge: str) -> str:
    """An actuator's gauge of the targets that the domains shown decide on."""
    named = f'label_replace(max by (target) ({gauge}), "part", "$1", "target", "(.*)")'
    # Parts by a label of nodes are named after the label, too.
    named = f'label_replace({named}, "part", "$1@$2", "target", "(.*)@.*=(.*)")'
    return f"{named} and on (part) {_DECIDED}"


FLEET = [
    stat(
        "Domains", "count(max by (domain) (sluice_sampler_window_end_seconds))", "Domains and instances with a sampler."
    ),
    stat(
        "Violated",
        "count(max by (domain) (sluice_decision_stress_ratio) > 1) or vector(0)",
        "Domains whose critical latency is above its objective now.",
        bad_from=1,
    ),
    stat(
        "Blind",
        'count((sum by (domain) (increase(sluice_sampler_samples_total{outcome="data"}[1m])) == 0) and '
        'sum by (domain) (increase(sluice_sampler_samples_total{outcome="blind"}[1m])) > 0) or vector(0)',
        "Domains without any data for a minute.  Their targets are held at their fail-safe limits.",
        bad_from=1,
    ),
    stat(
        "Paused targets",
        "sum(max by (target) (sluice_target_paused)) or vector(0)",
        "Targets whose limit somebody else has set.  /readyz of the actuator says how to hand them back.",
        bad_from=1,
    ),
    stat(
        "Fail-safe, last 5 min",
        "sum(increase(sluice_dead_man_total[5m])) or vector(0)",
        "How often a fail-safe limit was put in force for want of a decision.",
        bad_from=1,
    ),
    stat(
        "Failed patches, last 5 min",
        'sum(increase(sluice_patches_total{outcome="failed"}[5m])) or vector(0)',
        "What the API server refused or did not answer.",
        bad_from=1,
    ),
    plot(
        "Definitions: over the objective",
        "short",
        {"{{definition}}": _by_definition("sum by (definition) (", f"{_STRESS} > bool 1")},
        "How many instances of each definition violate an objective.  A domain of its own counts as one.",
    ),
    plot(
        "Definitions: latency against the objective",
        "percentunit",
        {
            "{{definition}}, worst": _by_definition("max by (definition) (", _STRESS),
            "{{definition}}, median": _by_definition("quantile by (definition) (0.5,", _STRESS),
        },
        "The worst instance of each definition, and the one in the middle.",
    ),
    plot(
        "Latency against the objective",
        "percentunit",
        {"{{domain}}": f"topk({_WORST}, {_STRESS})"},
        f"The worst figure of a domain, as a share of its objective: the {_WORST} worst domains.  Above 100 % the "
        "objective is violated.",
    ),
    plot(
        "Limits in force",
        "Kbits",
        {"{{target}}": f"bottomk({_WORST}, max by (target) (sluice_limit_kbit))"},
        f"On the workloads, the {_WORST} lowest.  A low limit is the price of the latency; a flat one at its maximum "
        "costs nothing.",
    ),
    plot(
        "Samples with data",
        "percentunit",
        {
            "{{domain}}": f"bottomk({_WORST}, "
            'sum by (domain) (rate(sluice_sampler_samples_total{outcome="data"}[$__rate_interval])) '
            '/ sum by (domain) (rate(sluice_sampler_samples_total{outcome=~"data|blind"}[$__rate_interval])))'
        },
        f"Share of the windows that control could act on: the {_WORST} domains with the fewest.",
    ),
    plot(
        "Patches",
        "ops",
        {"{{cause}}, {{outcome}}": "sum by (cause, outcome) (rate(sluice_patches_total[$__rate_interval]))"},
        "Objects patched, by cause and outcome.",
    ),
    plot(
        "Age of the last sample",
        "s",
        {"{{domain}}": f"topk({_WORST}, time() - max by (domain) (sluice_sampler_window_end_seconds))"},
        f"The {_WORST} oldest.  At 15 s the alert SluiceNoSamples fires.",
    ),
    plot(
        "From a measurement to the limit in force",
        "s",
        {
            "median": _quantile(0.5, "sluice_sample_to_applied_seconds"),
            "P95": _quantile(0.95, "sluice_sample_to_applied_seconds"),
        },
        "From the end of a window to the last patch that it caused.",
    ),
    plot(
        "Instances of each definition",
        "short",
        {
            "{{definition}}": "count by (definition) (label_replace("
            'max by (domain) (sluice_sampler_window_end_seconds), "definition", "$1", "domain", "([^@]*).*"))'
        },
        "One, or with `per` one for each node or value of the label in use.",
    ),
    plot(
        "Not limited",
        "short",
        {
            "stray pods": "sum(max by (target, namespace) (sluice_stray_pods)) or vector(0)",
            "limits left over": "max(sluice_limits_left_over) or vector(0)",
            "targets that send more than their limit": "sum(max by (target) (sluice_limit_not_enforced)) or vector(0)",
        },
        "Pods that nobody limits, limits that nobody moves, and limits that the network does not hold.",
    ),
]

DOMAIN = [
    stat(
        "Worst figure",
        'max(sluice_decision_stress_ratio{domain=~"$domain"})',
        "As a share of its objective.",
        unit="percentunit",
        bad_from=1.0,
    ),
    stat(
        "Decided in all",
        'sum(max by (domain, target) (sluice_decision_limit_kbit{domain=~"$domain"}))',
        "Sum of the limits that were decided.",
        unit="Kbits",
    ),
    stat(
        "In force in all",
        f"sum({_of_domain('sluice_limit_kbit')})",
        "Sum of the limits in force.",
        unit="Kbits",
    ),
    stat(
        "Samples with data",
        'sum(rate(sluice_sampler_samples_total{domain=~"$domain", outcome="data"}[$__rate_interval])) '
        '/ sum(rate(sluice_sampler_samples_total{domain=~"$domain", outcome=~"data|blind"}[$__rate_interval]))',
        "Share of the windows that control could act on.",
        unit="percentunit",
    ),
    stat(
        "Paused targets",
        f"sum({_of_domain('sluice_target_paused')}) or vector(0)",
        "Targets whose limit somebody else has set.",
        bad_from=1,
    ),
    stat(
        "Dropped samples, last 5 min",
        'sum(increase(sluice_sampler_dropped_total{domain=~"$domain"}[5m])) or vector(0)',
        "The bus did not take them in time.",
        bad_from=1,
    ),
    plot(
        "P95 and jitter in the control window",
        "s",
        {
            "{{workload}} {{figure}}": "max by (workload, figure) "
            '(sluice_sampler_latency_seconds{workload=~"$workload"})'
        },
        "What the sampler measured last.  Gaps are windows without data.",
    ),
    plot(
        "P95 over a minute",
        "s",
        {"{{namespace}}/{{workload}}": "namespace_workload:hubble_flow_latency_seconds:p95_1m"},
        "From the recording rules.  Longer windows than control uses.",
    ),
    plot(
        "Limits decided",
        "Kbits",
        {"{{domain}} {{target}}": 'max by (domain, target) (sluice_decision_limit_kbit{domain=~"$domain"})'},
        "Before the actuator's own bounds.",
    ),
    plot(
        "Limits in force",
        "Kbits",
        {"{{target}}": _of_domain("sluice_limit_kbit")},
        "On the workloads.",
    ),
    plot(
        "What each pod may send",
        "Kbits",
        {"{{target}}": _of_domain("sluice_pod_limit_kbit")},
        "A limit of scope aggregate, shared by the pods.",
    ),
    plot(
        "What the link carries",
        "Kbits",
        {
            "{{domain}} safe total load": 'max by (domain) (sluice_link_safe_load_kbit{domain=~"$domain"})',
            "{{domain}} critical load to come": 'max by (domain) (sluice_link_expected_load_kbit{domain=~"$domain"})',
            "{{domain}} kept free": 'max by (domain) (sluice_link_margin_kbit{domain=~"$domain"})',
            "{{domain}} left for best effort": 'max by (domain) (sluice_link_headroom_kbit{domain=~"$domain"})',
        },
        "What learned knows of the bottleneck: the largest total load that builds up no queue, and how it is used.",
    ),
    plot(
        "What was learned of the link",
        "ops",
        {"{{lesson}}": 'sum by (lesson) (rate(sluice_link_lessons_total{domain=~"$domain"}[$__rate_interval]))'},
        "How often samples taught something: that the safe load was touched, crossed, or lies higher.",
    ),
    plot(
        "Observations per window",
        "short",
        {"{{workload}}": 'max by (workload) (sluice_sampler_observations{workload=~"$workload"})'},
        "Below 100, a window counts as blind unless configured otherwise.",
    ),
    plot(
        "The shield's corrections",
        "ops",
        {"{{rule}}": 'sum by (rule) (rate(sluice_decision_overruled_total{domain=~"$domain"}[$__rate_interval]))'},
        "How often the shield changed what the policy proposed, by its rule.",
    ),
    plot(
        "Loss",
        "short",
        {"{{namespace}}/{{workload}}": "namespace_workload:hubble_flow_lost:increase1m"},
        "Packets and probes lost within a minute.",
    ),
]

SERVICES = [
    stat(
        "Samplers", f"count(up{{{_OURS}}} and on (instance) sluice_sampler_window_end_seconds) or vector(0)", "Scraped."
    ),
    stat("Decision services", "count(sluice_decision_steps_total) or vector(0)", "Scraped."),
    stat("Actuators", "count(sluice_reports_pending) or vector(0)", "Scraped.  Without one nothing sets a limit."),
    stat("Reports pending", "sum(sluice_reports_pending)", "That the bus has not acknowledged.", bad_from=64),
    stat(
        "Dead letters, last 10 min",
        "sum(increase(sluice_dead_letters_total[10m])) or vector(0)",
        "`sluice tap --kind dead` shows them.",
        bad_from=1,
    ),
    stat(
        "Policy faults, last 5 min",
        "sum(increase(sluice_decision_faults_total[5m]))",
        "The fallback decided in the policy's place.",
        bad_from=1,
    ),
    plot("Memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{_OURS}}}"}, "Resident."),
    plot(
        "CPU",
        "percentunit",
        {"{{instance}}": f"rate(process_cpu_seconds_total{{{_OURS}}}[$__rate_interval])"},
        "Of a core.",
    ),
    plot(
        "Sampler",
        "s",
        {
            "measuring, P95": _quantile(0.95, "sluice_sampler_measure_seconds"),
            "end of the window to the bus, P95": _quantile(0.95, "sluice_sampler_delay_seconds"),
        },
        "How long the source takes to answer, and the bus to acknowledge.",
    ),
    plot(
        "Decision service",
        "s",
        {
            "median": _quantile(0.5, "sluice_decision_lag_seconds"),
            "P95": _quantile(0.95, "sluice_decision_lag_seconds"),
        },
        "From the end of a window to its decision on the bus.",
    ),
    plot(
        "Actuator",
        "s",
        {
            "median": _quantile(0.5, "sluice_decision_to_applied_seconds"),
            "P95": _quantile(0.95, "sluice_decision_to_applied_seconds"),
        },
        "From a decision on the bus to the last patch.",
    ),
    plot(
        "Decisions",
        "ops",
        {
            "taken": "sum(rate(sluice_decision_steps_total[$__rate_interval]))",
            "taken by another replica": "sum(rate(sluice_decision_conflicts_total[$__rate_interval]))",
            "not put in force": "sum(rate(sluice_decisions_refused_total[$__rate_interval])) or vector(0)",
        },
        "With several replicas, conflicts are normal: one of them decides.",
    ),
    plot(
        "Domains of each decision service",
        "short",
        {"{{instance}}": "count by (instance) (sluice_decision_stress_ratio)"},
        "Numbered replicas share them; others have all.",
    ),
    plot(
        "Limits of each actuator",
        "short",
        {"{{instance}}": "count by (instance) (sluice_limit_kbit)"},
        "An actuator counts the targets that it has limited itself, as of its shards.",
    ),
    plot(
        "Windows that were left out",
        "ops",
        {
            "not measured": "sum(rate(sluice_sampler_skipped_windows_total[$__rate_interval]))",
            "not taken by the bus": "sum(rate(sluice_sampler_dropped_total[$__rate_interval])) or vector(0)",
        },
        "The source or the bus is slower than the signal period.",
    ),
    plot(
        "Exporter",
        "ops",
        {
            "observations": "sum(rate(hubble_flow_latency_seconds_count[$__rate_interval]))",
            "flows from Relay": "sum(rate(sluice_exporter_flows_total[$__rate_interval])) or vector(0)",
        },
        "Latencies measured, and flows read.",
    ),
]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }


def _place(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Numbered panels with places on the grid: numbers in rows of six, plots in rows of two."""
    x = y = 0
    for number, panel in enumerate(panels, 1):
        is_stat = panel["type"] == "stat"
        width, height = (_STAT_WIDTH, _STAT_HEIGHT) if is_stat else (_WIDTH, _HEIGHT)
        yield {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **panel}
        x += width
        if x == 24:
            x, y = 0, y + height


def build_dashboard(name: str, panels: list[dict[str, Any]], variables: dict[str, str]) -> dict[str, Any]:
    """A dashboard as Grafana imports it; ``variables`` are queries by name."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": f"sluice-{name}",
        "title": f"Sluice: {name}",
        "tags": ["sluice"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["sluice"], "title": "Sluice", "asDropdown": False}],
        "templating": {"list": [source, *(_variable(*one) for one in variables.items())]},
        "panels": list(_place(panels)),
    }


def render_all() -> dict[Path, str]:
    """Every dashboard's file, and its text."""
    domain = {
        "domain": "label_values(sluice_sampler_window_end_seconds, domain)",
        "workload": "label_values(sluice_sampler_observations, workload)",
    }
    built = {
        "fleet": build_dashboard("fleet", FLEET, {}),
        "domain": build_dashboard("domain", DOMAIN, domain),
        "services": build_dashboard("services", SERVICES, {}),
    }
    return {HOME / f"sluice-{name}.json": json.dumps(tree, indent=1) + "\n" for name, tree in built.items()}


if __name__ == "__main__":
    for path, text in render_all().items():
        path.write_text(text, encoding="utf-8")
