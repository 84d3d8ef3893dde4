"""What changes an installation later: components of the kustomization, and what the documentation has one type."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_chart import kustomized
from tests.support.kube.manifests import MANIFESTS, objects
from tests.support.readme import ROOT

pytestmark = pytest.mark.kubectl
COMPONENTS = sorted(path.parent.name for path in (MANIFESTS / "components").glob("*/kustomization.yaml"))
MAY_CHANGE = {
    "StatefulSet": {
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
    },
    "Deployment": {"replicas", "template", "strategy", "minReadySeconds", "revisionHistoryLimit", "paused"},
    "DaemonSet": {"template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit"},
    "Job": {"parallelism", "suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"},
}
"""Fields of a spec that the API server lets one change; all others of these kinds are forbidden."""
PAGES = [
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if "kubectl" in path.read_text()),
]


def by_name(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_can_be_added_later_or_says_what_to_delete(component: str, tmp_path: Path) -> None:
    """What a server would refuse as forbidden is in the component's own first lines, as a command."""
    before, after = by_name(objects()), by_name(kustomized(tmp_path / "overlay", component))
    refused = {
        (kind.lower(), name)
        for (kind, name), tree in after.items()
        if kind in MAY_CHANGE and (kind, name) in before
        for field, value in tree["spec"].items()
        if field not in MAY_CHANGE[kind] and before[kind, name]["spec"].get(field) != value
    }
    refused |= {
        (kind.lower(), name)
        for (kind, name), tree in before.items()
        if kind in MAY_CHANGE
        and (kind, name) in after
        and set(tree["spec"]) - set(after[kind, name]["spec"]) - MAY_CHANGE[kind]
    }
    advice = (MANIFESTS / "components" / component / "kustomization.yaml").read_text(encoding="utf-8")
    for kind, name in refused:
        assert re.search(rf"^#.*kubectl -n \S+ delete {kind} {name}\b", advice, re.MULTILINE), (kind, name)


def test_some_component_needs_the_advice(tmp_path: Path) -> None:
    """The test above is about something: the bus without a volume is another StatefulSet."""
    before, after = by_name(objects()), by_name(kustomized(tmp_path / "overlay", "volatile-bus"))
    key = ("StatefulSet", "nats")
    assert before[key]["spec"].get("volumeClaimTemplates") != after[key]["spec"].get("volumeClaimTemplates")


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_typed_that_apply_makes(page: str) -> None:
    """`kubectl apply` warns of an object that `kubectl create` made."""
    assert shutil.which("kubectl")
    made = {(kind.lower(), name) for kind, name in by_name(objects())}
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for kind, name in re.findall(
        r"kubectl (?:-n \S+ )?create (namespace|ns|sa|serviceaccount|configmap|deployment) (\S+)", text
    ):
        full = {"ns": "namespace", "sa": "serviceaccount"}.get(kind, kind)
        assert (full, name) not in made, f"{page}: kubectl create {kind} {name}"
