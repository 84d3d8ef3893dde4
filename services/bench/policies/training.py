"""Trains the network of the policy ``neural`` in the Gymnasium environment, on one core.

First the network learns to answer as another policy does, on states that the network itself leads to (DAgger: Ross,
Gordon and Bagnell, 2011).  Then evolution strategies (Salimans et al., 2017) improve it by the environment's reward.
The same seed gives the same weights on one machine.  Held-out seeds of the cases are never played.
"""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from services.bench.policies.case import HELD_OUT
from services.bench.policies.catalogue import CASES
from services.bench.policies.gradient import fit
from services.control.policies import make_policy
from services.control.policies.neural.features import FEATURES, find_action
from services.control.policies.neural.network import Layer, Network
from services.plant.environment import Episode, LinkEnvironment
from services.plant.simulated.signal_profiles import SHIPPED

Weights = NDArray[np.float64]

SIZES = (len(FEATURES), 16, 16, 1)
CASE_NAMES = (
    "steady", "step", "shift", "capacity", "flapping", "join", "bursts-irregular", "sine-20s", "sine-60s",
    "walk-gentle", "stalls-20s", "outliers-1", "unconfigured-step",
)  # fmt: skip
_SECONDS = 150.0
"""Length of a training episode: the beginning of the case."""
_DIGITS = 5


def shapes() -> list[tuple[int, int]]:
    """Rows and columns of each layer's weights, the bias as the last column."""
    return [(rows, columns + 1) for columns, rows in pairwise(SIZES)]


def split(weights: Weights) -> list[Weights]:
    """One matrix for each layer."""
    parts, at = [], 0
    for rows, columns in shapes():
        parts.append(weights[at : at + rows * columns].reshape(rows, columns))
        at += rows * columns
    return parts


def to_network(weights: Weights, made_by: str = "") -> Network:
    """The network that the policy runs, its weights rounded."""
    layers = tuple(
        Layer(
            tuple(tuple(round(float(one), _DIGITS) for one in row[:-1]) for row in part),
            tuple(round(float(one), _DIGITS) for one in part[:, -1]),
        )
        for part in split(weights)
    )
    return Network(layers, made_by)


def from_network(network: Network) -> Weights:
    """The weights of a network."""
    parts = [np.column_stack([np.array(one.weights), np.array(one.bias)]) for one in network.layers]
    return np.concatenate([part.ravel() for part in parts])


def draw_episode(random: Random) -> Episode:
    """The beginning of a case, by a seed that is not held out."""
    prepared = CASES[random.choice(CASE_NAMES)].prepare(random.randrange(HELD_OUT))
    scenario = replace(prepared.scenario, seconds=min(prepared.scenario.seconds, _SECONDS))
    return Episode(scenario, prepared.domain(), prepared.delays(SHIPPED), prepared.parameters)


def earn(network: Network, seed: int, environment: LinkEnvironment) -> float:
    """The mean reward of a step in one episode."""
    inputs, _ = environment.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    while not over:
        action = network.answer([float(one) for one in inputs])
        inputs, reward, _, over, _ = environment.step(np.array([action], dtype=np.float32))
        total, steps = total + reward, steps + 1
    return total / steps


def imitate(teacher: str, rounds: int, episodes: int, seed: int, environment: LinkEnvironment) -> Weights:
    """Learn to answer as a policy does: it acts in the first round, and only advises in the others."""
    weights: Weights = np.random.default_rng(seed).normal(0, 0.3, sum(rows * columns for rows, columns in shapes()))
    inputs: list[Sequence[float]] = []
    wanted: list[float] = []
    for number in range(rounds):
        network = to_network(weights)
        for episode in range(episodes):
            seen, _ = environment.reset(seed=seed + 1000 * number + episode)
            policy = make_policy(environment.domain, teacher)
            memory, over = policy.memory_type(), False
            while not over:
                after, asked, bounds = environment.question
                proposal = policy.propose(memory, asked, bounds)
                memory, advice = proposal.memory, find_action(after, proposal.budget)
                values = [float(one) for one in seen]
                inputs.append(values)
                wanted.append(advice)
                action = advice if number == 0 else network.answer(values)
                seen, _, _, over, _ = environment.step(np.array([action], dtype=np.float32))
        weights = fit(weights, split, np.array(inputs), np.array(wanted), seed)
    return weights


def evolve(
    weights: Weights, *, generations: int, pairs: int, episodes: int, seed: int, environment: LinkEnvironment
) -> tuple[Weights, list[float]]:
    """Improve weights by the reward over some generations; gives the rewards of the mean in each generation.

    Each generation plays pairs of opposite changes on the same episodes, and steps along the changes by their ranks.
    """
    random = np.random.default_rng(seed)
    sigma, rate = 0.02, 0.02
    history: list[float] = []
    velocity = np.zeros_like(weights)
    for generation in range(generations):
        seeds = [seed + 10_000 + generation * episodes + number for number in range(episodes)]
        changes = random.normal(0, 1, (pairs, weights.size))
        rewards = np.array([
            [np.mean([earn(to_network(weights + sign * sigma * change), one, environment) for one in seeds])
             for sign in (1, -1)]
            for change in changes
        ])  # fmt: skip
        ranks = rewards.ravel().argsort().argsort().reshape(rewards.shape) / (rewards.size - 1) - 0.5
        gradient = ((ranks[:, 0] - ranks[:, 1]) @ changes) / pairs
        velocity = 0.8 * velocity + gradient
        weights = weights + rate * velocity
        history.append(float(rewards.mean()))
    return weights, history
