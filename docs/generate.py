"""Writes the reference pages and the configuration's JSON Schema from the code: ``python docs/generate.py``.

The types, the policies, the metrics and the commands are the truth.  A test compares the files with them
(``tests/contract/test_reference_docs.py``).
"""

import ast
import importlib
import inspect
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
import msgspec
from prometheus_client import REGISTRY, CollectorRegistry

import schemas.config
import schemas.domain
import schemas.exporter
from schemas.config import Config
from schemas.units import Duration, Rate, encode_unit
from services.bus.subjects import DEFAULT_PREFIX
from services.cli import main as cli
from services.control.policies import POLICIES
from services.exporter.metrics import LatencyMetrics
from services.runtime.config_loader import OVERRIDES

HOME = Path(__file__).parent / "reference"
SCHEMA = Path(schemas.config.__file__).parent / "config.json"
_HEAD = "<!-- Written by docs/generate.py (make schemas): change the code, not this page. -->\n\n"
_MODULES = (schemas.config, schemas.domain, schemas.exporter)
_METRICS = (
    "services.actuator.metrics",
    "services.bus.bus",
    "services.decision.metrics",
    "services.exporter.probe_manager",
    "services.sampler.metrics",
)
"""Modules that register metrics when they are imported."""


def read_descriptions(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """The string that follows each field in a module's classes, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found[node.name] = {}
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    fields[name] = " ".join(inspect.cleandoc(text).replace("``", "`").split())
    return found


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _unwrap(kind: Any) -> tuple[Any, msgspec.Meta | None]:
    """A field's type without ``None`` and without its annotation, and the annotation."""
    meta = None
    if hasattr(kind, "__metadata__"):
        meta = next((one for one in kind.__metadata__ if isinstance(one, msgspec.Meta)), None)
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [one for one in get_args(kind) if one is not type(None)]
        kind, inner = _unwrap(kind)
        meta = meta or inner
    return kind, meta


def _name_type(kind: Any) -> str:
    kind, _ = _unwrap(kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return "list" if _is_struct(_unwrap(item)[0]) else f"list of {_name_type(item)}s"
    if get_origin(kind) is dict:
        return "mapping"
    names = {Rate: "rate (`50M`)", Duration: "duration (`500ms`)", str: "text", int: "integer", float: "number"}
    return names.get(kind, "boolean" if kind is bool else "any")


def _name_range(kind: Any) -> str:
    _, meta = _unwrap(kind)
    if meta is None:
        return ""
    bounds = [
        (meta.ge, "at least {}"), (meta.gt, "above {}"), (meta.le, "at most {}"), (meta.lt, "below {}"),
        (meta.min_length, "{} or more"),
    ]  # fmt: skip
    return ", ".join(text.format(f"{value:g}") for value, text in bounds if value is not None)


def _show_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[misc]
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, Rate | Duration):
        return f"`{value}`"
    return f"`{json.dumps(msgspec.to_builtins(value, enc_hook=encode_unit))}`"


def _struct_of(kind: Any) -> tuple[type[msgspec.Struct] | None, str]:
    """The struct in a field's type, and what its path has after the field's name."""
    kind, _ = _unwrap(kind)
    if get_origin(kind) is tuple:
        kind, suffix = _unwrap(get_args(kind)[0])[0], "[]"
    else:
        suffix = ""
    return (kind, suffix) if _is_struct(kind) else (None, "")


def _sections(kind: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """The struct and all structs in it, with their paths in the file."""
    yield path, kind
    for field in msgspec.structs.fields(kind):
        inner, suffix = _struct_of(field.type)
        if inner is not None:
            yield from _sections(inner, f"{path}.{field.name}{suffix}".lstrip("."))


def render_configuration() -> str:
    """The page with every key of the configuration file."""
    described = {name: fields for module in _MODULES for name, fields in read_descriptions(module).items()}
    variables = {path: name for name, (path, _) in OVERRIDES.items()}
    lines = [
        "# Configuration",
        "",
        "One YAML file serves all services and tools. `sluice check FILE` reports every mistake in it. A rate is a",
        "Kubernetes quantity in bit/s, and a duration is written as in Prometheus. An editor that knows YAML completes",
        "keys when the file begins with `# yaml-language-server: $schema=schemas/config.json`.",
    ]
    for path, kind in _sections(Config):
        lines += ["", f"## `{path}`" if path else "## Top level", "", inspect.getdoc(kind) or "", ""]
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            meaning = described[kind.__name__].get(field.name, "")
            if variable := variables.get((*(part for part in path.split(".") if part), field.name)):
                meaning = f"{meaning} Overridden by `{variable}`." if variable not in meaning else meaning
            inner, suffix = _struct_of(field.type)
            if inner is not None:
                place = f"{path}.{field.name}{suffix}".lstrip(".")
                anchor = "".join(one for one in place.lower() if one.isalnum() or one in "_-")
                name, default = f"[{'list' if suffix else 'section'}](#{anchor})", "**required**" * field.required
            else:
                name, default = _name_type(field.type), _show_default(field)
            lines.append(f"| `{field.name}` | {name} | {default} | {_name_range(field.type)} | {meaning.strip()} |")
    return _HEAD + "\n".join(lines).replace("``", "`") + "\n"


def build_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, for editors."""
    described = {name: fields for module in _MODULES for name, fields in read_descriptions(module).items()}

    def describe_unit(kind: type[Any]) -> dict[str, Any]:
        if kind is Rate:
            return {"type": "string", "description": "A Kubernetes quantity in bit/s.", "examples": ["50M", "2.5G"]}
        if kind is Duration:
            return {"type": "string", "description": "A duration.", "examples": ["500ms", "1m30s"]}
        raise NotImplementedError(kind)

    tree = msgspec.json.schema(Config, schema_hook=describe_unit, ref_template="#/$defs/{name}")
    for name, definition in tree["$defs"].items():
        for field, text in described.get(name, {}).items():
            definition["properties"][field]["description"] = text
    for definition in tree["$defs"].values():
        for field in definition.get("properties", {}).values():
            if isinstance(field.get("default"), int) and field.get("type") == "string":
                del field["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:sluice:config"} | tree


def render_policies() -> str:
    """The page with every policy and its parameters."""
    lines = [
        "# Policies",
        "",
        "A domain names its policy under `policy`, and sets the policy's own parameters under `parameters`. The shield",
        "bounds every policy in the same way.",
    ]
    for name, make in POLICIES.items():
        module = inspect.getmodule(make)
        assert module is not None
        summary = (inspect.getdoc(module) or "").partition("\n")[0].partition(": ")[2]
        lines += ["", f"## `{name}`", "", f"{summary[:1].upper()}{summary[1:]}", "", f"Version `{make.version}`."]
        parameters = make.parameters_type
        if not msgspec.structs.fields(parameters):
            lines[-1] += " It has no parameters."
            continue
        lines += ["", "| parameter | type | default | range | meaning |", "|---|---|---|---|---|"]
        lines += _parameter_rows(parameters)
    return _HEAD + "\n".join(lines) + "\n"


def _parameter_rows(kind: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    module = inspect.getmodule(kind)
    assert module is not None
    described = read_descriptions(module)[kind.__name__]
    for field in msgspec.structs.fields(kind):
        inner, _ = _struct_of(field.type)
        if inner is not None:
            yield from _parameter_rows(inner, f"{path}{field.name}.")
            continue
        cells = (_name_type(field.type), _show_default(field), _name_range(field.type), described.get(field.name, ""))
        yield f"| `{path}{field.name}` | {' | '.join(cells)} |"


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
    lines = ["# Metrics", "", "Every service exposes its metrics on `/metrics` of its own port (`listen`).", ""]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|", *(rows[name] for name in sorted(rows))]
    return _HEAD + "\n".join(lines) + "\n"


def render_commands() -> str:
    """The page with every command, its options and the exit codes."""
    lines = ["# Commands", ""]
    context = click.Context(cli, info_name="sluice")
    lines += _describe_command(cli, context)
    return _HEAD + "\n".join(lines) + "\n"


def _describe_command(command: click.Command, context: click.Context) -> Iterator[str]:
    title = context.command_path
    if title != "sluice":
        yield from (f"{'#' * (title.count(' ') + 1)} `{title}`", "", inspect.cleandoc(command.help or ""), "")
        options = [one for one in command.get_params(context) if isinstance(one, click.Option) and one.name != "help"]
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


def render_all() -> dict[Path, str]:
    """Every generated file and its text."""
    return {
        HOME / "configuration.md": render_configuration(),
        HOME / "policies.md": render_policies(),
        HOME / "metrics.md": render_metrics(),
        HOME / "commands.md": render_commands(),
        SCHEMA: json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    HOME.mkdir(exist_ok=True)
    for path, text in render_all().items():
        path.write_text(text, encoding="utf-8")
