"""What a benchmark promises, and how its figures are shown."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from loopback import Cost, median


class Bar(NamedTuple):
    """A promise about one figure, and what was measured."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        word = "met" if self.met else "MISSED"
        return f"  {self.what:<56} {self.value:8.2f}  {bound:>8} {self.limit:<6g} {word}"


class Rounds:
    """What each way cost in each round. Parts are taken within a round, of runs a moment apart: a machine that
    is slow for a while is so for both."""

    def __init__(self) -> None:
        self._costs: dict[str, list[Cost]] = {}

    def add(self, costs: dict[str, Cost]) -> None:
        """What some ways cost in one more round."""
        for name, cost in costs.items():
            self._costs.setdefault(name, []).append(cost)

    def __contains__(self, name: str) -> bool:
        return name in self._costs

    def medians(self) -> dict[str, Cost]:
        """Each way's median cost."""
        return {name: median(costs) for name, costs in self._costs.items()}

    def part(self, name: str, other: str, figure: str = "wall") -> float:
        """The median of one way's figure divided by another's in the same round."""
        pairs = zip(self._costs[name], self._costs[other], strict=True)
        return statistics.median(getattr(one, figure) / getattr(of, figure) for one, of in pairs)


def print_table(rounds: Rounds, own: str = "saver") -> None:
    """Each way's medians, and saver's part of them."""
    medians = rounds.medians()
    print(f"{'':<28}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'saver/wall':>13}{'saver/CPU':>11}")
    for name, cost in medians.items():
        peak = f"{cost.peak / 1e6:.0f}" if cost.peak else "-"
        ratios = ""
        if own in rounds and name != own:
            part = f"{rounds.part(own, name, 'cpu'):.2f}" if cost.cpu and medians[own].cpu else "-"
            ratios = f"{rounds.part(own, name):>13.2f}{part:>11}"
        cpu = f"{cost.cpu:.2f}" if cost.cpu else "-"
        print(f"{name:<28}{cost.wall:>8.2f}{cpu:>8}{peak:>9}{ratios}")
