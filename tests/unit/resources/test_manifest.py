"""A domain as a resource, and back; every mistake is named as the resource has it, with its line in a file."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from services.cli import main
from services.resources.file import has_resources, load_resources, write_resources
from services.resources.manifest import InvalidResource, read_domain, write_manifest
from services.runtime.config_loader import ConfigError, load, parse
from tests.support.kube.manifests import MANIFESTS

SPEC: dict[str, Any] = {
    "critical": [{"workload": "robot-control", "jitter": "3ms"}],
    "targets": [{"deployment": "upload", "min": "5M", "max": "900M", "failSafe": "20M"}],
    "shield": {"risePerSecond": 0.1},
    "deadMan": "8s",
    "minObservations": 50,
}


def test_a_resource_is_the_same_domain_as_the_file() -> None:
    """The fields of both notations mean the same; what a resource leaves out is its namespace, and the defaults."""
    text = """
    domains:
    - name: factory/line
      critical: [{namespace: factory, workload: robot-control, jitter: 3ms}]
      targets: [{namespace: factory, deployment: upload, min: 5M, max: 900M, fail_safe: 20M}]
      shield: {rise_per_second: 0.1}
      dead_man: 8s
      min_observations: 50
    """
    (domain,) = parse(text, "file", {}).domains
    assert read_domain("factory", "line", SPEC) == domain
    assert write_manifest(domain, "factory", "line")["spec"] == SPEC


def test_the_shipped_file_can_be_written_as_resources(tmp_path: Path) -> None:
    """`sluice check --print-resources` prints what reads back as the file's domains, under the resource's name."""
    (domain,) = load(MANIFESTS / "config.yaml", {}).domains
    path = tmp_path / "resources.yaml"
    path.write_text(write_resources([domain]), encoding="utf-8")
    (read,) = load_resources(path)
    assert read.name == "factory/factory"
    assert (read.critical, read.targets, read.capacity) == (domain.critical, domain.targets, domain.capacity)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dead_man": "8s"}, "spec.dead_man: unknown key; did you mean 'deadMan'?"),
        ({"name": "x"}, "spec.name: unknown key; a resource is named by metadata.name"),
        ({"policy": "magic"}, "spec.policy: there is no policy 'magic'"),
        ({"policy": "proportional", "parameters": {"k_dwn": 1}}, "spec.parameters.k_dwn: unknown key; did you mean"),
        ({"shield": {"risePerSecond": 9}}, "spec.shield.risePerSecond: risePerSecond 9.0 is outside 0.001 to 1"),
        ({"capacity": "10M"}, "above the capacity of 10M"),
        ({"targets": 3}, "spec.targets: expected a list, got 3"),
        (
            {"targets": [{**SPEC["targets"][0], "failSafe": "1G"}]},
            "target factory/upload: expected min <= failSafe <= max, got min 5M, failSafe 1G, max 900M",
        ),
        (
            {"targets": [{**SPEC["targets"][0], "namespace": "office"}]},
            "spec.targets[0].namespace: a resource in namespace factory may not limit workloads of another namespace",
        ),
    ],
)
def test_a_mistake_is_named_as_the_resource_has_it(change: dict[str, Any], text: str) -> None:
    """Paths and names are those of the resource."""
    with pytest.raises(InvalidResource) as caught:
        read_domain("factory", "line", {**SPEC, **change})
    assert text in str(caught.value)
    assert "fail_safe" not in str(caught.value)


@pytest.mark.parametrize("spec", [None, 3, "x", [], {}, {"critical": None}])
def test_what_is_no_spec_is_refused(spec: Any) -> None:
    """Whatever the API server holds is refused with a reason."""
    with pytest.raises(InvalidResource, match="spec"):
        read_domain("factory", "line", spec)


def test_a_trusted_namespace_may_name_workloads_of_others() -> None:
    """Who writes resources in Sluice's own namespace may limit workloads of every namespace."""
    spec = {**SPEC, "targets": [{**SPEC["targets"][0], "namespace": "office"}]}
    assert read_domain("sluice", "line", spec).targets[0].key == "office/upload"
    assert read_domain("net", "line", spec, trusted=("net",)).targets[0].key == "office/upload"


def test_a_file_of_resources_is_checked_with_line_numbers(tmp_path: Path) -> None:
    """Every mistake of every resource has its place; documents of other kinds are left out."""
    path = tmp_path / "line.yaml"
    path.write_text(
        "kind: ConfigMap\n---\napiVersion: sluice.dev/v1alpha1\nkind: BandwidthDomain\n"
        "metadata: {name: line, namespace: factory}\nspec:\n  critical:\n  - workload: robot\n    p95: 2\n"
        "  targets:\n  - deployment: upload\n    min: 5M\n    max: 90M\n    failSafe: 5M\n    failSafe: 5M\n"
        "---\napiVersion: sluice.dev/v1\nkind: BandwidthDomain\nmetadata: {}\n",
        encoding="utf-8",
    )
    assert has_resources(path.read_text(encoding="utf-8"))
    with pytest.raises(ConfigError) as caught:
        load_resources(path)
    lines = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert lines == [
        "9:5: spec.critical[0].p95: expected a quoted duration such as 500ms, got 2",
        "15:5: the key 'failSafe' occurs twice",
        "17:1: apiVersion: expected sluice.dev/v1alpha1, got 'sluice.dev/v1'",
        "19:1: metadata: the key 'name' is missing",
    ]


def test_what_is_no_yaml_is_refused(tmp_path: Path) -> None:
    """With its place."""
    path = tmp_path / "line.yaml"
    path.write_text("kind: BandwidthDomain\nspec: [\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line\.yaml:3:1: "):
        load_resources(path)


def test_every_field_of_the_file_is_in_the_resource() -> None:
    """A domain with every field set survives both ways."""
    spec = {
        **SPEC,
        "policy": "proportional",
        "parameters": {"k_down": 0.5},
        "shadow": ["aimd"],
        "capacity": "1G",
        "shield": {"risePerSecond": 0.1, "cut": 0.4, "settle": "1s", "decay": "2s", "deadband": 0.01},
        "targets": [{**SPEC["targets"][0], "weight": 3, "scope": "per-pod"}],
    }
    manifest = write_manifest(read_domain("factory", "line", spec), "factory", "line")
    assert manifest["spec"] == spec
    assert yaml.safe_load(yaml.safe_dump(manifest)) == manifest


def test_the_command_checks_files_of_resources(tmp_path: Path) -> None:
    """`sluice check` prints what a resource controls, and ends with 1 on a mistake."""
    printed = CliRunner().invoke(main, ["check", str(MANIFESTS / "config.yaml"), "--print-resources"])
    assert (printed.exit_code, printed.output.count("kind: BandwidthDomain")) == (0, 1)
    path = tmp_path / "line.yaml"
    path.write_text(printed.output, encoding="utf-8")
    right = CliRunner().invoke(main, ["check", str(path)])
    assert right.exit_code == 0, right.output
    assert "Domain factory/factory" in right.output
    path.write_text(printed.output.replace("failSafe: 20M", "failSafe: 20"), encoding="utf-8")
    wrong = CliRunner().invoke(main, ["check", str(path)])
    assert wrong.exit_code == 1
    assert ":14:5: spec.targets[0].failSafe: expected a quoted rate such as 50M, got 20" in wrong.output
