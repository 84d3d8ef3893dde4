"""The kinds that need no ``apiVersion`` are the same ones wherever they are listed by hand."""

import re
from pathlib import Path

import pytest

from schemas.workloads import KINDS
from services.kube.workloads import WORKLOADS

ROOT = Path(__file__).parents[2]
OTHERS = KINDS.keys() - {"Deployment"}
PLACES = {
    "manifests/chart/templates/_objects.tpl": (r"\$known := list ([^-]*)-", OTHERS),
    "manifests/components/admission/policy.yaml": (r"name: kinds\n\s+expression: >-\n\s+\{([^}]*)\}", KINDS.keys()),
    "schemas/domain.py": (r"Kind of the object: (.*), or any other", KINDS.keys()),
}
"""By file, what surrounds its list, and the kinds that belong there."""


@pytest.mark.parametrize("file", PLACES)
def test_a_file_lists_every_known_kind(file: str) -> None:
    """Without it in the chart or the admission policy, a target of that kind would be refused."""
    pattern, kinds = PLACES[file]
    listed = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"))
    assert listed is not None
    missing = sorted(kinds ^ set(re.findall(r"\b[A-Z]\w+", listed[1])))
    assert not missing, f"{file} and KINDS in schemas/workloads.py differ: {', '.join(missing)}"


@pytest.mark.parametrize("kind", WORKLOADS)
def test_a_kind_has_rights_in_the_manifests(kind: str) -> None:
    """Some Role, and the admission policy's rules, name its resource."""
    files = [*(ROOT / "manifests").glob("*.yaml"), *(ROOT / "manifests" / "components").glob("*/rights.yaml")]
    rights = "".join(one.read_text(encoding="utf-8") for one in files)
    policy = (ROOT / "manifests/components/admission/policy.yaml").read_text(encoding="utf-8")
    named = re.compile(rf"resources: \[[^\]]*\b{WORKLOADS[kind].plural}\b")
    assert named.search(rights), f"no Role in manifests/ names {WORKLOADS[kind].plural}"
    assert named.search(policy), f"components/admission/policy.yaml does not match {WORKLOADS[kind].plural}"


def test_the_registry_is_the_schemas() -> None:
    """Each known kind has a class, of the version that the configuration assumes."""
    assert {name: one.api_version for name, one in WORKLOADS.items()} == KINDS
