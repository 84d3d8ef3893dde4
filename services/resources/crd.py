"""Writes the CustomResourceDefinition as YAML: ``python -m services.resources.crd``; `make schemas` runs it.

The rules in CEL are a component of their own: before Kubernetes 1.25, kubectl and helm refuse a definition with them.
"""

from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from schemas.resource import build_definition

_MANIFESTS = Path(__file__).parents[2] / "manifests"
"""In a checkout; an installed package has none."""
_RULES = "x-kubernetes-validations"

_DEFINITION = """\
# The custom resource of a domain: `kubectl get bandwidthdomains` (bwd).  `make schemas` writes this file from the types
# in schemas/domain.py.
"""
_COMPONENT = """\
# Kubernetes 1.25+: the API server checks in a BandwidthDomain what needs a rule in CEL, such as min <= failSafe <= max.
# Without it, Sluice refuses such a resource and says so in its status.  `make schemas` writes this file.
#   in your overlay:   components: [../manifests/components/resource-rules]
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
  - target: {kind: CustomResourceDefinition, name: bandwidthdomains.sluice.dev}
    patch: |-
"""


def render() -> dict[Path, str]:
    """The files' texts, by their paths."""
    definition = build_definition()
    (version,) = definition["spec"]["versions"]
    patch = [{"op": "replace", "path": "/spec/versions/0/schema", "value": version["schema"]}]
    return {
        _MANIFESTS / "bandwidth-domains.yaml": _DEFINITION + _dump(without_rules(definition)),
        _MANIFESTS / "components/resource-rules/kustomization.yaml": _COMPONENT + indent(_dump(patch), " " * 6),
    }


def without_rules(tree: Any) -> Any:
    """A definition as API servers before 1.25 know it."""
    if isinstance(tree, list):
        return [without_rules(item) for item in tree]
    return {key: without_rules(item) for key, item in tree.items() if key != _RULES} if isinstance(tree, dict) else tree


def _dump(tree: Any) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=112, allow_unicode=True)


if __name__ == "__main__":
    for path, text in render().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
