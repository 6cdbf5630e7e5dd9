"""The moments of Adam (Kingma and Ba 2015, algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, namespace


@dataclass
class Moments:
    """Running means of the gradient and of its squares, laid out like θ, and the steps that they were taken over."""

    first: Array
    second: Array
    count: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, g: Array, rate: float) -> Array:
        """Take in a gradient; what is to be subtracted from θ, with bias correction."""
        xp = namespace(g)
        self.count += 1
        self.first *= self.beta1
        self.first += (1 - self.beta1) * g
        self.second *= self.beta2
        self.second += (1 - self.beta2) * g * g
        root = xp.sqrt(self.second) / math.sqrt(1 - self.beta2**self.count) + self.epsilon
        return rate / (1 - self.beta1**self.count) * self.first / root
