"""Fits a network of tanh layers to examples, by Adam (Kingma and Ba, 2015) in plain numpy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_STEPS, _BATCH, _RATE = 3000, 256, 0.003
_FIRST, _SECOND = 0.9, 0.999
_SMALL = 0.02
"""Below this, an error counts by its square, above by its size: most answers lie close to 0, and must be exact."""


def fit(weights: Values, split: Callable[[Values], list[Values]], inputs: Values, wanted: Values, seed: int) -> Values:
    """Fit weights to examples; ``split`` gives each layer's matrix, whose last column is the bias."""
    random = np.random.default_rng(seed)
    weights = weights.copy()
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, _STEPS + 1):
        chosen = random.integers(0, len(inputs), _BATCH)
        gradient = find_gradient(split(weights), inputs[chosen], wanted[chosen])
        mean = _FIRST * mean + (1 - _FIRST) * gradient
        square = _SECOND * square + (1 - _SECOND) * gradient**2
        rate = _RATE * (1 - step / _STEPS) + 1e-5
        weights -= rate * (mean / (1 - _FIRST**step)) / (np.sqrt(square / (1 - _SECOND**step)) + 1e-8)
    return weights


def find_gradient(layers: list[Values], inputs: Values, wanted: Values) -> Values:
    """The gradient of the mean error, one row of ``inputs`` for each example."""
    values = [np.column_stack([inputs, np.ones(len(inputs))])]
    outputs = []
    for layer in layers:
        outputs.append(np.tanh(values[-1] @ layer.T))
        values.append(np.column_stack([outputs[-1], np.ones(len(inputs))]))
    error = outputs[-1][:, 0] - wanted
    slope = (np.clip(error, -_SMALL, _SMALL) / _SMALL / len(inputs))[:, None]
    parts: list[Values] = []
    for number in range(len(layers) - 1, -1, -1):
        slope = slope * (1 - outputs[number] ** 2)
        parts.append((slope.T @ values[number]).ravel())
        slope = slope @ layers[number][:, :-1]
    return np.concatenate(parts[::-1])
