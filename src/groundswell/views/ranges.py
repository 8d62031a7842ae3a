"""Ranges that the parameters of views are drawn from: the smaller number first."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator

Pair = tuple[float, float]


def within(least: float, most: float = math.inf, *, above: bool = False) -> AfterValidator:
    """A check of ``least <= low <= high <= most``; with ``above``, of ``least < low``."""
    sign = "<" if above else "<="
    rule = f"(low, high) with {f'{least:g} {sign} ' if least > -math.inf else ''}low <= high"
    rule += f" <= {most:g}" if most < math.inf else ""

    def check(pair: Pair) -> Pair:
        low, high = pair
        if not least <= low <= high <= most or (above and low == least):
            raise ValueError(f"must be {rule}")
        return pair

    return AfterValidator(check)


Range = Annotated[Pair, within(-math.inf)]
NotNegative = Annotated[Pair, within(0)]
Positive = Annotated[Pair, within(0, above=True)]
Fractions = Annotated[Pair, within(0, 1)]
