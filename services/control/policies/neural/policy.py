"""``neural``: a network of two hidden layers of 16 tanh, trained on the simulated plant.

    total = knee (1 + 0.1 a) for a > 0, knee (1 + 0.5 a) otherwise;  u = total - L

with ``a`` the network's answer, L the critical load, and the knee as ``features.py`` remembers it.  The weights are
data of the package, made by ``sluice bench train``.  A network gives no reasons; the shield bounds it like any policy.
"""

from pkgutil import get_data

from schemas.domain import Domain
from schemas.settings import Settings
from services.control.observation import Observation
from services.control.policies.neural.features import FEATURES, LinkMemory, extract, find_budget
from services.control.policies.neural.network import read_network
from services.control.policies.parameters import nameplate, read_parameters
from services.control.policy import Bounds, Proposal

WEIGHTS = "weights.json"
"""The file beside this module."""


class NeuralParameters(Settings, frozen=True):
    """It has none: what it does is in its weights."""


class Neural:
    """A trained network."""

    version = "neural/1"
    memory_type = LinkMemory
    parameters_type = NeuralParameters

    def __init__(self, domain: Domain) -> None:
        """Read the weights.

        Raises:
            ValueError: a parameter is given, or the package's file of weights is damaged.
        """
        read_parameters(domain, NeuralParameters)
        self._plate = nameplate(domain)
        self._network = read_network(get_data(__package__, WEIGHTS) or b"", len(FEATURES))

    def propose(self, memory: LinkMemory, seen: Observation, bounds: Bounds) -> Proposal:
        """Ask the network how far from the knee the total shall be."""
        inputs, after = extract(memory, seen, bounds, self._plate)
        action = self._network.answer(inputs)
        return Proposal(find_budget(after, action), f"{action:+.3f} from a knee of {after.knee} kbit/s", after)
