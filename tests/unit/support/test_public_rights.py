"""What every account of a cluster may do, by version: the test of the actuator's rights leaves it out, and no more."""

from typing import Any

import pytest

from tests.contract.test_rights import list_public_grants

ACCESS = {
    "apiGroups": ["authorization.k8s.io"],
    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    "verbs": ["create"],
}
SELF = {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]}


class Server:
    """The one object that is read, as a version has it."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        """With these rules."""
        self.rules = list(rules)

    def request(self, method: str, path: str) -> dict[str, Any]:
        """The ClusterRole."""
        assert (method, path.rpartition("/")[2]) == ("GET", "system:basic-user")
        return {"rules": self.rules}


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ([ACCESS], 2),  # up to 1.27
        ([ACCESS, SELF], 3),  # from 1.28
        ([SELF, ACCESS], 3),
        ([{**ACCESS, "resources": ["selfsubjectaccessreviews"]}], 1),
        ([], 0),
    ],
)
def test_what_everybody_may_is_known_on_each_version(rules: list[dict[str, Any]], count: int) -> None:
    """Reviews of oneself."""
    found = list_public_grants(Server(*rules))  # type: ignore[arg-type]
    assert len(found) == count
    assert all(one.startswith("selfsubject") for one in found)


@pytest.mark.parametrize(
    "rule",
    [
        {**SELF, "verbs": ["create", "get"]},
        {**SELF, "resources": ["tokenreviews"]},
        {**SELF, "resources": ["selfsubjectreviews", "pods"]},
        {**SELF, "apiGroups": [""]},
        {**ACCESS, "resources": ["*"]},
    ],
)
def test_a_cluster_that_lets_everybody_do_more_is_noticed(rule: dict[str, Any]) -> None:
    """Such a right would be the actuator's, too."""
    with pytest.raises(AssertionError):
        list_public_grants(Server(ACCESS, rule))  # type: ignore[arg-type]
