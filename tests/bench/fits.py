"""How a cost grows with the number of things: the exponent of the power law, and the worst step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# What noise does to a line that is linear: three to four sizes, ten per cent either way.
EXPONENT, STEP = 1.1, 1.3


class Fit(NamedTuple):
    """`exponent`: k of cost ~ size^k, by least squares over all sizes.

    `worst`: of all steps from one size to the next, the most that the cost
    grew, in parts of what the size grew: 1 is linear.
    """

    exponent: float
    worst: float

    @property
    def linear(self) -> bool:
        """Whether the cost grows no faster than the number of things, within what noise does."""
        return self.exponent <= EXPONENT and self.worst <= STEP


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Fit:
    """Raises ValueError with less than two sizes, or costs of 0."""
    if len(sizes) < 2 or len(sizes) != len(costs):
        raise ValueError(f"{len(costs)} costs of {len(sizes)} sizes: two at least")
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
    steps = [costs[n + 1] / costs[n] / (sizes[n + 1] / sizes[n]) for n in range(len(sizes) - 1)]
    return Fit(slope, max(steps))
