"""The emulator's label and field selectors, in the form of a query string."""

from collections.abc import Callable, Mapping

from services.kube.selectors import parse_selector
from services.plant.kube_emulator.store import StatusError, Tree


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
        meta, involved = tree["metadata"], tree.get("involvedObject") or {}
        own_fields = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta.get("namespace", ""),
            "spec.nodeName": (tree.get("spec") or {}).get("nodeName", ""),
            "status.phase": (tree.get("status") or {}).get("phase", ""),
            "involvedObject.name": involved.get("name", ""),
            "involvedObject.uid": involved.get("uid", ""),
        }
        own_labels = meta.get("labels") or {}
        return all(one.matches(own_labels) for one in labels) and all(one.matches(own_fields) for one in fields)

    return matches
