"""The policies there are.  A new one is a module of this package, and its class in the list below.

Other packages have policies, too: see ``foreign.py``.
"""

from msgspec.structs import replace

from schemas.domain import Domain
from services.control.policies.aimd import Aimd
from services.control.policies.bbr import Bbr
from services.control.policies.cake_autorate import CakeAutorate
from services.control.policies.foreign import UnknownPolicy, foreign_names, load_foreign
from services.control.policies.heracles import Heracles
from services.control.policies.learned.policy import Learned
from services.control.policies.neural.policy import Neural
from services.control.policies.parameters import read_parameters
from services.control.policies.parties import Parties
from services.control.policies.proportional import Proportional
from services.control.policies.proteus import Proteus
from services.control.policies.sqm_autorate import SqmAutorate
from services.control.policies.static import Static
from services.control.policies.watermark import Watermark
from services.control.policy import Policy, PolicyType

_TYPES: tuple[PolicyType, ...] = (
    Aimd, Bbr, CakeAutorate, Heracles, Learned, Neural,
    Parties, Proportional, Proteus, SqmAutorate, Static, Watermark,
)  # fmt: skip

POLICIES: dict[str, PolicyType] = {kind.version.partition("/")[0]: kind for kind in _TYPES}
"""Every policy's class, by the name that the configuration uses."""


def policy_names() -> list[str]:
    """The names of all policies, those of other packages included."""
    return sorted({*POLICIES, *foreign_names()})


def find_policy(name: str) -> PolicyType:
    """A policy's class: one of those here, another package's by its entry point, or ``module:Class``.

    Raises:
        UnknownPolicy: there is none of this name.
        ValueError: it cannot be loaded, or is not a policy's class.
    """
    return POLICIES[name] if name in POLICIES else load_foreign(name)


def make_policy(domain: Domain, name: str | None = None) -> Policy:
    """The policy that the domain asks for, with its parameters; or another by ``name``, with its defaults.

    Raises:
        ValueError: no such policy, or a parameter that it does not take.
    """
    if name is not None and name != domain.policy:
        domain = replace(domain, policy=name, parameters={}, shadow=())
    try:
        kind = find_policy(domain.policy)
    except UnknownPolicy as error:
        raise ValueError(f"domain {domain.name!r}: {error}; there are {', '.join(policy_names())}") from None
    except ValueError as error:
        raise ValueError(f"domain {domain.name!r}: {error}") from None
    try:
        if domain.policy not in POLICIES:
            # A class may not read its parameters: what it does not take is an error, too.
            read_parameters(domain, kind.parameters_type)
        return kind(domain)
    except ValueError as error:
        raise ValueError(f"domain {domain.name!r}: policy {domain.policy!r}: {error}") from None
