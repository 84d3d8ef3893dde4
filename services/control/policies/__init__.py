"""The policies there are, by the name that the configuration uses."""

from collections.abc import Callable
from typing import Any

from schemas.domain import Domain
from services.control.policies.proportional import Proportional
from services.control.policy import Policy

POLICIES: dict[str, Callable[[dict[str, Any]], Policy]] = {"proportional": Proportional.configured}


def make_policy(domain: Domain) -> Policy:
    """The policy that the domain asks for, with its parameters.

    Raises:
        ValueError: no such policy, or a parameter that it does not take.
    """
    make = POLICIES.get(domain.policy)
    if make is None:
        raise ValueError(
            f"domain {domain.name!r}: no policy {domain.policy!r}; there are {', '.join(sorted(POLICIES))}"
        )
    try:
        return make(domain.parameters)
    except ValueError as error:
        raise ValueError(f"domain {domain.name!r}: policy {domain.policy!r}: {error}") from None
