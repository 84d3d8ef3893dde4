"""The policies there are, by the name that the configuration uses."""

from collections.abc import Callable

from msgspec.structs import replace

from schemas.domain import Domain
from services.control.policies.aimd import Aimd
from services.control.policies.heracles import Heracles
from services.control.policies.learned.policy import Learned
from services.control.policies.parties import Parties
from services.control.policies.proportional import Proportional
from services.control.policies.static import Static
from services.control.policies.watermark import Watermark
from services.control.policy import Policy

POLICIES: dict[str, Callable[[Domain], Policy]] = {
    "aimd": Aimd,
    "heracles": Heracles,
    "learned": Learned,
    "parties": Parties,
    "proportional": Proportional,
    "static": Static,
    "watermark": Watermark,
}
"""Name -> what makes the policy for a domain; it raises ValueError for a parameter that it does not take."""


def make_policy(domain: Domain, name: str | None = None) -> Policy:
    """The policy that the domain asks for, with its parameters; or another by ``name``, with its defaults.

    Raises:
        ValueError: no such policy, or a parameter that it does not take.
    """
    if name is not None and name != domain.policy:
        domain = replace(domain, policy=name, parameters={}, shadow=())
    make = POLICIES.get(domain.policy)
    if make is None:
        raise ValueError(
            f"domain {domain.name!r}: no policy {domain.policy!r}; there are {', '.join(sorted(POLICIES))}"
        )
    try:
        return make(domain)
    except ValueError as error:
        raise ValueError(f"domain {domain.name!r}: policy {domain.policy!r}: {error}") from None
