"""The kinds of objects that the emulator knows."""

from msgspec import Struct

from services.plant.kube_emulator.store import Key, StatusError, Tree


class Kind(Struct, frozen=True):
    """One kind of object and where it is found."""

    name: str
    version: str
    """Group and version: ``v1``, ``apps/v1``."""
    namespaced: bool = True
    under: tuple[str, ...] = ()
    """Subresources."""

    @property
    def group(self) -> str:
        """The group; empty for the core."""
        return self.version.rpartition("/")[0]

    @property
    def plural(self) -> str:
        """The form in a path."""
        name = self.name.lower()
        if name.endswith("y"):
            return f"{name[:-1]}ies"
        return name if name.endswith("points") else f"{name}s"

    @property
    def resource(self) -> str:
        """The form in a key: ``pods``, ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS = (
    Kind("ConfigMap", "v1"),
    Kind("Endpoints", "v1"),
    Kind("Event", "v1"),
    Kind("Namespace", "v1", namespaced=False),
    Kind("Node", "v1", namespaced=False, under=("status",)),
    Kind("PersistentVolumeClaim", "v1"),
    Kind("Pod", "v1", under=("binding", "status")),
    Kind("Secret", "v1"),
    Kind("Service", "v1", under=("status",)),
    Kind("ServiceAccount", "v1"),
    Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", namespaced=False),
    Kind("DaemonSet", "apps/v1", under=("status",)),
    Kind("Deployment", "apps/v1", under=("scale", "status")),
    Kind("ReplicaSet", "apps/v1", under=("scale", "status")),
    Kind("StatefulSet", "apps/v1", under=("scale", "status")),
    Kind("ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1", namespaced=False),
    Kind("ValidatingAdmissionPolicyBinding", "admissionregistration.k8s.io/v1", namespaced=False),
    Kind("CronJob", "batch/v1", under=("status",)),
    Kind("Job", "batch/v1", under=("status",)),
    Kind("CiliumEndpoint", "cilium.io/v2"),
    Kind("CiliumNetworkPolicy", "cilium.io/v2"),
    Kind("Lease", "coordination.k8s.io/v1"),
    Kind("PrometheusRule", "monitoring.coreos.com/v1"),
    Kind("ServiceMonitor", "monitoring.coreos.com/v1"),
    Kind("NetworkPolicy", "networking.k8s.io/v1"),
    Kind("PodDisruptionBudget", "policy/v1"),
    Kind("ClusterRole", "rbac.authorization.k8s.io/v1", namespaced=False),
    Kind("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", namespaced=False),
    Kind("Role", "rbac.authorization.k8s.io/v1"),
    Kind("RoleBinding", "rbac.authorization.k8s.io/v1"),
    Kind("BandwidthDomain", "sluice.dev/v1alpha1", under=("status",)),
)

_BY_NAME = {(kind.version, kind.name): kind for kind in KINDS}
_BY_PATH = {(kind.version, kind.plural): kind for kind in KINDS}


def define_kind(definition: Tree) -> Kind:
    """Take up a kind that a CustomResourceDefinition defines, in its first version."""
    spec = definition["spec"]
    version = spec["versions"][0]
    kind = Kind(
        spec["names"]["kind"],
        f"{spec['group']}/{version['name']}",
        namespaced=spec["scope"] == "Namespaced",
        under=tuple(version.get("subresources") or ()),
    )
    _BY_NAME[kind.version, kind.name] = kind
    _BY_PATH[kind.version, spec["names"]["plural"]] = kind
    return kind


def known_kinds() -> tuple[Kind, ...]:
    """All kinds, those that were defined later too."""
    return tuple(_BY_NAME.values())


def kind_at(group: str, version: str, plural: str) -> Kind:
    """The kind that a request's path names.

    Raises:
        StatusError: there is none.
    """
    kind = _BY_PATH.get((f"{group}/{version}" if group else version, plural))
    if kind is None:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    return kind


def key_of(tree: Tree) -> Key:
    """Where a manifest's object belongs.

    Raises:
        StatusError: the emulator does not know its kind.
    """
    version, name = tree.get("apiVersion"), tree.get("kind")
    kind = _BY_NAME.get((version, name)) if isinstance(version, str) and isinstance(name, str) else None
    if kind is None:
        raise StatusError(404, "NotFound", f"no matches for kind {name!r} in version {version!r}")
    meta = tree.get("metadata") or {}
    return (kind.resource, meta.get("namespace", "default") if kind.namespaced else None, meta.get("name", ""))
