"""A small network of tanh layers, from a file of plain weights.  No library computes it: a step is 500 products."""

from collections.abc import Sequence
from math import tanh

import msgspec
from msgspec import Struct


class Layer(Struct, frozen=True):
    """One layer: ``tanh(weights x + bias)``."""

    weights: tuple[tuple[float, ...], ...]
    """One row for each output."""
    bias: tuple[float, ...]


class Network(Struct, frozen=True):
    """Layers, the first one first."""

    layers: tuple[Layer, ...]
    made_by: str = ""
    """The command that trained it."""

    def answer(self, inputs: Sequence[float]) -> float:
        """The last layer's first output, within [-1, 1]."""
        values = inputs
        for layer in self.layers:
            values = [
                tanh(sum(map(float.__mul__, row, values), bias))
                for row, bias in zip(layer.weights, layer.bias, strict=True)
            ]
        return values[0]


def read_network(text: bytes, inputs: int) -> Network:
    """Read a file of weights, JSON, for so many inputs.

    Raises:
        ValueError: it is no such file, or the layers do not fit each other.
    """
    network = msgspec.json.decode(text, type=Network)
    size = inputs
    for number, layer in enumerate(network.layers, 1):
        if any(len(row) != size for row in layer.weights) or len(layer.bias) != len(layer.weights):
            raise ValueError(f"layer {number}: expected rows of {size} weights, and a bias for each row")
        size = len(layer.bias)
    if not network.layers or size != 1:
        raise ValueError(f"expected at least one layer, and one output at last, got {size}")
    return network
