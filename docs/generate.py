"""Writes the reference pages from the code: ``python docs/generate.py``.

The types, the policies, the metrics and the commands are the truth.  A test compares the files with them
(``tests/contract/test_reference_docs.py``).
"""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from schemas.config import Config
from schemas.reference import Field, describe
from services.bus.subjects import DEFAULT_PREFIX
from services.cli import main as cli
from services.control.policies import POLICIES
from services.exporter.metrics import LatencyMetrics
from services.kube.objects import Meta
from services.meter.page import PageBuilder
from services.meter.pods import NodePod
from services.meter.reading import PodBytes, Reading, UnmeteredPod

HOME = Path(__file__).parent / "reference"
_HEAD = "<!-- Written by docs/generate.py (make schemas): change the code, not this page. -->\n\n"
_METRICS = (
    "services.actuator.metrics",
    "services.bus.bus",
    "services.decision.metrics",
    "services.exporter.probe_manager",
    "services.sampler.metrics",
)
"""Modules that register metrics when they are imported."""
_COLLECTORS = ("services.decision.metrics", "services.exporter.metrics")
"""Modules whose collectors build metrics at each scrape."""


def render_configuration() -> str:
    """The page with every key of the configuration file."""
    lines = [
        "# Configuration",
        "",
        "One YAML file serves all services and tools. `sluice check FILE` reports every mistake in it. A rate is a",
        "Kubernetes quantity in bit/s (`50M`), and a duration is written as in Prometheus (`500ms`). An editor that",
        "knows YAML completes keys if the file begins with",
        "`# yaml-language-server: $schema=schemas/config.schema.json`.",
    ]
    for path, kind in _iter_sections(Config):
        lines += ["", f"## `{path}`" if path else "## Top level", "", inspect.getdoc(kind) or "", ""]
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for field in describe(kind):
            name = field.kind
            if field.section is not None:
                place = f"{path}.{field.name}".lstrip(".")
                anchor = "".join(one for one in place.lower() if one.isalnum() or one in "_-")
                name = f"[{'list' if field.kind.startswith('list') else 'section'}](#{anchor})"
            lines.append(_format_row(field, field.name, name))
    return _HEAD + "\n".join(lines).replace("``", "`") + "\n"


def _iter_sections(kind: type[Struct], path: str = "") -> Iterator[tuple[str, type[Struct]]]:
    """The struct and all structs in it, with their paths in the file."""
    yield path, kind
    for field in describe(kind):
        if field.section is not None:
            yield from _iter_sections(field.section, f"{path}.{field.name}".lstrip("."))


def _format_row(field: Field, name: str, kind: str) -> str:
    default = (
        "**required**"
        if field.default is None
        else ""
        if field.default in ("none", "", "[]", "{}")
        else f"`{field.default}`"
    )
    if field.section is not None and field.default is not None:
        default = ""
    if field.choices:
        kind = " or ".join(f"`{one}`" for one in field.choices)
    bounds = " to ".join(one for one in (field.minimum, field.maximum) if one is not None)
    if field.minimum is not None and field.maximum is None:
        bounds = f"at least {bounds}"
    meaning = " ".join(field.meaning.split()).replace("|", "\\|")
    if field.unit and field.unit != "share":
        kind = f"{kind}, {field.unit}"
    return f"| `{name}` | {kind} | {default} | {bounds} | {meaning} |"


def render_policies() -> str:
    """The page with every policy and its parameters."""
    lines = [
        "# Policies",
        "",
        "A domain names its policy under `policy`, and sets the policy's own parameters under `parameters`. The shield",
        "bounds every policy in the same way.",
    ]
    for name, policy in POLICIES.items():
        lines += ["", f"## `{name}`", "", f"{inspect.getdoc(policy)} Version `{policy.version}`."]
        rows = [
            _format_row(field, f"{path}.{field.name}".lstrip("."), field.kind)
            for path, kind in _iter_sections(policy.parameters_type)
            for field in describe(kind)
            if field.section is None
        ]
        if rows:
            lines += ["", "| parameter | type | default | range | meaning |", "|---|---|---|---|---|", *rows]
        else:
            lines[-1] += " It has no parameters."
    return _HEAD + "\n".join(lines).replace("``", "`") + "\n"


def render_metrics() -> str:
    """The page with every metric that a service exposes."""
    for name in _METRICS:
        importlib.import_module(name)
    own = CollectorRegistry()
    LatencyMetrics((), (0.001,), 1, own)
    collectors: Mapping[Any, list[str]] = {**REGISTRY._collector_to_names, **own._collector_to_names}  # noqa: SLF001
    rows = {}
    for collector in collectors:
        for family in collector.describe() if hasattr(collector, "describe") else ():
            if family.name.startswith((f"{DEFAULT_PREFIX}_", "hubble_")):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = ", ".join(f"`{label}`" for label in collector._labelnames)  # noqa: SLF001
                rows[name] = f"| `{name}` | {family.type} | {labels} | {family.documentation} |"
    for module in _COLLECTORS:
        for name, kind, labels, text in _read_families(module):
            rows[name] = f"| `{name}` | {kind} | {', '.join(f'`{one}`' for one in labels)} | {text} |"
    for name, kind, labels, text in _read_meter_page():
        rows[name] = f"| `{name}` | {kind} | {', '.join(f'`{one}`' for one in labels)} | {text} |"
    lines = ["# Metrics", "", "Every service exposes its metrics on `/metrics` of its own port (`listen`).", ""]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|", *(rows[name] for name in sorted(rows))]
    return _HEAD + "\n".join(lines) + "\n"


def _read_families(module: str) -> Iterator[tuple[str, str, list[str], str]]:
    """The metrics that a collector builds at each scrape, from its source: name, type, labels and meaning."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or len(node.args) < 2:
            continue
        kind, is_family, _ = node.func.id.partition("MetricFamily")
        if is_family:
            name = eval(ast.unparse(node.args[0]), {}, constants)  # noqa: S307 - our own source
            labels = [ast.literal_eval(one.value) for one in node.keywords if one.arg == "labels"]
            text = ast.literal_eval(node.args[1])
            yield f"{name}_total" if kind == "Counter" else name, kind.lower(), [*labels, []][0], text


def _read_meter_page() -> Iterator[tuple[str, str, list[str], str]]:
    """The metrics of the meter's own page, from one with every kind of series."""
    pod = NodePod(Meta("x", "x", "x", "1"))
    reading = Reading((PodBytes(pod, sent=1, received=1, source="device", stamp=1),), (UnmeteredPod(pod, "x"),))
    page = PageBuilder("x").build(reading, watching=True).decode()
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield name, family.type, list(family.samples[0].labels), family.documentation


def render_commands() -> str:
    """The page with every command, its options and the exit codes."""
    lines = ["# Commands", "", "The exit codes of all commands are in [the tools' page](../tools.md#exit-codes).", ""]
    context = click.Context(cli, info_name="sluice")
    lines += _describe_command(cli, context)
    return _HEAD + "\n".join(lines) + "\n"


def _describe_command(command: click.Command, context: click.Context) -> Iterator[str]:
    title = context.command_path
    if title != "sluice":
        yield from (f"{'#' * (title.count(' ') + 1)} `{title}`", "", inspect.cleandoc(command.help or ""), "")
        options = [
            one for one in command.get_params(context) if isinstance(one, click.Option) and "--help" not in one.opts
        ]
        if options:
            yield from ("| option | meaning |", "|---|---|")
            for one in options:
                record = one.get_help_record(context)
                if record is not None:
                    yield "| `{}` | {} |".format(*(" ".join(part.split()).replace("|", "\\|") for part in record))
            yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _describe_command(inner, click.Context(inner, parent=context, info_name=name))


PAGES: dict[Path, Callable[[], str]] = {
    HOME / "configuration.md": render_configuration,
    HOME / "policies.md": render_policies,
    HOME / "metrics.md": render_metrics,
    HOME / "commands.md": render_commands,
}
"""Every generated file, and what makes its text."""


if __name__ == "__main__":
    HOME.mkdir(exist_ok=True)
    for path, render in PAGES.items():
        path.write_text(render(), encoding="utf-8")
