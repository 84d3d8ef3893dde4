"""The Gymnasium environment, and the network that is trained in it."""

import subprocess
import sys

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the extra 'gym' is not installed")

import numpy as np  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

from schemas.messages import encode  # noqa: E402
from services.bench.policies.training import from_network, to_network  # noqa: E402
from services.control import Controller  # noqa: E402
from services.control.policies.neural.features import LinkMemory, find_action, find_budget  # noqa: E402
from services.control.policies.neural.network import Layer, Network, read_network  # noqa: E402
from services.plant.environment import ID, LinkEnvironment  # noqa: E402
from services.plant.scenario import SCENARIOS  # noqa: E402
from services.plant.simulated.closed_loop import play  # noqa: E402


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes.*")
def test_gymnasiums_checker_accepts_it() -> None:
    """Spaces, seeds, reset and step are as its interface says."""
    check_env(LinkEnvironment(("demo",), seconds=10), skip_render_check=True)


def test_rewards_tell_a_safe_agent_from_a_greedy_one() -> None:
    """By the ground truth, whose seconds are all counted; the same seed gives the same episode."""
    environment = gymnasium.make(ID, scenarios=("steady",), seconds=40)
    totals = []
    for action in (-0.05, 0.3, -0.05):
        environment.reset(seed=3)
        total, bad, seconds, over = 0.0, 0, 0, False
        while not over:
            _, reward, _, over, info = environment.step(np.array([action], dtype=np.float32))
            total, bad, seconds = total + float(reward), bad + info["bad"], seconds + info["seconds"]
        assert seconds >= 38
        totals.append((total, bad))
    safe, greedy, again = totals
    assert safe == again
    assert safe[1] == 0 < greedy[1]
    assert safe[0] > greedy[0]


def test_wrong_names_are_errors() -> None:
    """Each names what there is."""
    with pytest.raises(ValueError, match="no scenario nowhere; there are steady"):
        LinkEnvironment(("nowhere",))
    with pytest.raises(ValueError, match="no signals 'x'; there are meter"):
        LinkEnvironment(signals="x")


def test_the_policy_is_small_deterministic_and_under_the_shield() -> None:
    """It is live by its name, and its memory travels in the decision."""
    scenario = SCENARIOS["demo"].stretch_to(30)
    domain = scenario.domain("neural")
    runs = [play(scenario, domain, Controller(domain), seed=1) for _ in range(2)]
    assert [encode(one) for one in runs[0].decisions] == [encode(one) for one in runs[1].decisions]
    assert {one.fault for one in runs[0].decisions} == {None}
    assert all(target.limit <= 100_000 for one in runs[0].decisions for target in one.targets)
    assert len(encode(runs[0].decisions[-1])) < 4096


def test_the_decision_service_with_it_stays_small() -> None:
    """A process that has both holds less than a pod may, and has not loaded numpy."""
    program = """
import re, sys
from pathlib import Path
import services.decision.service
from services.control.policies import find_policy
from schemas.domain import Critical, Domain, Target
from schemas.units import Rate
target = Target(deployment="a", min=Rate(1), max=Rate(9), fail_safe=Rate(2))
find_policy("neural")(Domain("d", (Critical("b"),), (target,), policy="neural"))
assert "numpy" not in sys.modules and "gymnasium" not in sys.modules
print(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024


def test_weights_and_actions_survive_a_round_trip() -> None:
    """A file whose layers do not fit is an error."""
    network = Network((Layer(((0.5, -1.0),), (0.25,)),))
    with pytest.raises(ValueError, match="layer 1: expected rows of 3 weights"):
        read_network(b'{"layers": [{"weights": [[0.5, -1.0]], "bias": [0.25]}]}', 3)
    with pytest.raises(ValueError, match="at least one layer"):
        read_network(b'{"layers": []}', 1)
    assert list(from_network(network)) == [0.5, -1.0, 0.25]
    sizes = 13 * 16 + 16 + 16 * 16 + 16 + 16 + 1
    weights = np.arange(sizes) / 1000.0
    assert np.allclose(from_network(to_network(weights)), weights)
    memory = LinkMemory(knee=100_000, load=20_000)
    assert find_action(memory, find_budget(memory, 0.5)) == pytest.approx(0.5, abs=1e-3)
    assert find_action(memory, find_budget(memory, -0.25)) == pytest.approx(-0.25, abs=1e-3)
