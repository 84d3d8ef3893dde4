"""Rights on the cluster: the API server is asked about all of its resources, and a table lists all permitted ones."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.contract.test_chart import kustomized
from tests.support.kube.apiserver import ApiServer
from tests.support.readme import Installed
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.apiserver

ACCOUNTS = ("sampler", "decision", "actuator", "exporter", "meter")
HOMES = {"meter": "sluice-meter"}
"""Namespaces of accounts that are not in ``sluice``."""
EVERYWHERE = ""
ALLOWED = {
    ("actuator", "factory", "deployments.apps"): {"get", "list", "watch", "patch"},
    ("actuator", "factory", "pods"): {"get", "list", "watch", "patch"},
    ("actuator", "factory", "events"): {"create"},
    ("actuator", "factory", "bandwidthdomains.sluice.dev"): {"list", "watch"},
    ("actuator", EVERYWHERE, "bandwidthdomains.sluice.dev"): {"list", "watch"},
    ("actuator", "factory", "bandwidthdomains.sluice.dev/status"): {"patch"},
    ("actuator", EVERYWHERE, "bandwidthdomains.sluice.dev/status"): {"patch"},
    ("meter", "factory", "pods"): {"list", "watch"},
    ("meter", EVERYWHERE, "pods"): {"list", "watch"},
}
"""Everything that the manifests permit the services' accounts."""
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SPECIAL = {
    "users": ["impersonate"],
    "groups": ["impersonate"],
    "serviceaccounts": ["impersonate"],
    "roles.rbac.authorization.k8s.io": ["bind", "escalate"],
    "clusterroles.rbac.authorization.k8s.io": ["bind", "escalate"],
    "podsecuritypolicies.policy": ["use"],
    "certificatesigningrequests.certificates.k8s.io": ["approve"],
    "signers.certificates.k8s.io": ["approve", "sign", "attest"],
    "nodes": ["proxy"],
    "ciliumnetworkpolicies.cilium.io": [*VERBS],
    "*": ["*"],
    "*.*": ["*"],
}
"""Verbs and resources that discovery does not list."""


def list_public_grants(server: ApiServer) -> set[str]:
    """What Kubernetes lets every authenticated account create (reviews of itself); later versions have more."""
    rules = server.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:basic-user")["rules"]
    assert all(rule["verbs"] == ["create"] for rule in rules)
    found = {f"{name}.{group}" for rule in rules for name in rule["resources"] for group in rule["apiGroups"]}
    assert all(re.fullmatch(r"selfsubject\w*reviews\.(authorization|authentication)\.k8s\.io", one) for one in found)
    return found


def list_resources(server: ApiServer) -> Iterator[str]:
    """Every resource and subresource that the server has: ``pods``, ``pods/exec``, ``deployments.apps``."""
    paths = [("/api/v1", "")]
    for group in server.request("GET", "/apis")["groups"]:
        paths += [(f"/apis/{one['groupVersion']}", f".{group['name']}") for one in group["versions"]]
    for path, suffix in paths:
        for one in server.request("GET", path)["resources"]:
            name, slash, sub = one["name"].partition("/")
            yield f"{name}{suffix}{slash}{sub}"


class Authoriser:
    """Queries the server's authoriser about an account, with the groups of its token."""

    def __init__(self, server: ApiServer) -> None:
        """Open one connection."""
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {server.token}"
        self._ca = str(server.ca)
        self._url = f"{server.url}/apis/authorization.k8s.io/v1/subjectaccessreviews"
        self.asked = 0

    def may(self, account: str, namespace: str, verb: str, resource: str) -> bool:
        """Whether the account may; the empty namespace means the whole cluster."""
        whole, _, sub = resource.partition("/")
        name, _, group = whole.partition(".")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": sub}
        return self._answer(account, {"resourceAttributes": attributes})

    def may_get(self, account: str, path: str) -> bool:
        """Whether the account may get a non-resource path."""
        return self._answer(account, {"nonResourceAttributes": {"verb": "get", "path": path}})

    def _answer(self, account: str, attributes: dict[str, Any]) -> bool:
        self.asked += 1
        home = HOMES.get(account, "sluice")
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
        spec = {"user": f"system:serviceaccount:{home}:sluice-{account}", "groups": groups, **attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = self._session.post(self._url, json=review, verify=self._ca, timeout=PATIENCE_S)
        answer.raise_for_status()
        return bool(answer.json()["status"]["allowed"])

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


@pytest.fixture
def authoriser(installed: Installed) -> Iterator[Authoriser]:
    """The authoriser of the server with the installed manifests."""
    one = Authoriser(installed.server)
    yield one
    one.close()


def test_no_account_may_do_more_than_the_table_lists(installed: Installed, authoriser: Authoriser) -> None:
    """Every account, in its workloads' namespace and in the whole cluster, every resource and verb.

    Prints the table.
    """
    resources = sorted(set(list_resources(installed.server)))
    assert {"pods/exec", "pods/eviction", "secrets", "deployments.apps/scale", "serviceaccounts/token"} <= set(
        resources
    )
    anybody = list_public_grants(installed.server)
    rows = []
    for account, namespace, resource in itertools.product(ACCOUNTS, ("factory", EVERYWHERE), [*resources, *SPECIAL]):
        verbs = [*VERBS, *SPECIAL.get(resource, [])] if resource in resources else SPECIAL[resource]
        granted = {verb for verb in verbs if authoriser.may(account, namespace, verb, resource)}
        wanted = {"create"} if resource in anybody else ALLOWED.get((account, namespace, resource), set())
        assert granted == wanted, (account, namespace, resource)
        if granted and resource not in anybody:
            rows.append(f"{account:10}{namespace:10}{resource:20}{' '.join(sorted(granted))}")
    print("\n".join(rows))
    print(f"{authoriser.asked} questions about {len(resources)} resources, {sum(map(len, ALLOWED.values()))} allowed")
    assert len(rows) == len(ALLOWED)


def test_the_server_itself_names_no_further_rule(installed: Installed) -> None:
    """Each account asks with its own token for its rules in each namespace; the table covers all of them."""
    server = installed.server
    basic: set[tuple[str, str]] = {("create", name) for name in list_public_grants(server)}
    namespaces = [one["metadata"]["name"] for one in server.request("GET", "/api/v1/namespaces")["items"]]
    assert {"factory", "sluice", "kube-system", "default"} <= set(namespaces)
    for account in ACCOUNTS:
        token = server.token_of(HOMES.get(account, "sluice"), f"sluice-{account}")
        for namespace in namespaces:
            rules = rules_of(server, token, namespace)
            places = ((account, namespace), (account, EVERYWHERE))
            mine = {key[2]: verbs for key, verbs in ALLOWED.items() if key[:2] in places}
            wanted = {(verb, resource) for resource, verbs in mine.items() for verb in verbs}
            assert rules == wanted | basic, (account, namespace)
    print(f"{len(ACCOUNTS)} accounts in {len(namespaces)} namespaces")


def rules_of(server: ApiServer, token: str, namespace: str) -> set[tuple[str, str]]:
    """Every verb and resource that a token permits, as ``kubectl auth can-i --list`` shows it."""
    answer = requests.post(
        f"{server.url}/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        json={"spec": {"namespace": namespace}},
        headers={"Authorization": f"Bearer {token}"},
        verify=str(server.ca),
        timeout=30,
    )
    answer.raise_for_status()
    status = answer.json()["status"]
    assert not status["incomplete"]
    return {
        (verb, re.sub(r"(?=/|$)", f".{group}" if group else "", resource, count=1))
        for rule in status["resourceRules"]
        for verb, group, resource in itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"])
    }


def test_the_meters_components_add_one_right_each(installed: Installed, authoriser: Authoriser, tmp_path: Path) -> None:
    """An endpoint by its name, and the kubelet's pages; not its logs, its statistics, its proxy, or any object."""
    (role,) = [
        one
        for one in kustomized(tmp_path / "overlay", "meter-endpoints", "meter-kubelet")
        if (one["kind"], one["metadata"]["name"]) == ("ClusterRole", "sluice-meter")
    ]
    name = {"name": "sluice-extended-meter"}
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": name,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", **name},
        "subjects": [{"kind": "ServiceAccount", "namespace": "sluice", **name}],
    }
    server, path = installed.server, f"/apis/{group}/v1"
    server.request("POST", f"{path}/clusterroles", role | {"metadata": name})
    server.request("POST", f"{path}/clusterrolebindings", binding)
    try:
        allowed = {"pods": {"list", "watch"}, "ciliumendpoints.cilium.io": {"get"}, "nodes/metrics": {"get"}}
        node = [f"nodes/{one}" for one in ("log", "proxy", "spec", "stats", "status", "configz")]
        others = ["nodes", *node, "pods/exec", "pods/log", "secrets", "configmaps", "ciliumnodes.cilium.io"]
        for namespace, resource in itertools.product(("factory", EVERYWHERE), [*allowed, *others]):
            granted = {verb for verb in VERBS if authoriser.may("extended-meter", namespace, verb, resource)}
            assert granted == allowed.get(resource, set()), (namespace, resource)
    finally:
        server.request("DELETE", f"{path}/clusterrolebindings/{name['name']}")
        server.request("DELETE", f"{path}/clusterroles/{name['name']}")


def test_what_is_no_resource_is_public_or_closed(authoriser: Authoriser) -> None:
    """Metrics, logs and profiles of the API server are closed; health and discovery are open to known accounts."""
    for account in ACCOUNTS:
        assert not [path for path in ("/metrics", "/logs", "/debug/pprof/profile") if authoriser.may_get(account, path)]
        assert authoriser.may_get(account, "/healthz")
