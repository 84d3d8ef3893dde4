"""The emulator's label and field selectors, in the form of a query string."""

from collections.abc import Callable, Mapping

from services.kube.selectors import parse_selector
from services.plant.kube_emulator.errors import StatusError
from services.plant.kube_emulator.store import Tree


def build_filter(params: Mapping[str, str]) -> Callable[[Tree], bool]:
    """A test for objects from ``labelSelector`` and ``fieldSelector``.

    Raises:
        StatusError: a selector cannot be read.
    """
    try:
        labels, fields = (parse_selector(params.get(key, "")) for key in ("labelSelector", "fieldSelector"))
    except ValueError as error:
        raise StatusError(400, "BadRequest", str(error)) from None

    def matches(tree: Tree) -> bool:
        own = tree["metadata"].get("labels") or {}
        return all(one.matches(own) for one in labels) and (
            not fields or all(one.matches(_fields(tree)) for one in fields)
        )

    return matches


def _fields(tree: Tree) -> dict[str, str]:
    return {
        "metadata.name": tree["metadata"]["name"],
        "metadata.namespace": tree["metadata"].get("namespace", ""),
        "spec.nodeName": (tree.get("spec") or {}).get("nodeName", ""),
        "status.phase": (tree.get("status") or {}).get("phase", ""),
        "involvedObject.name": (tree.get("involvedObject") or {}).get("name", ""),
        "involvedObject.uid": (tree.get("involvedObject") or {}).get("uid", ""),
    }
