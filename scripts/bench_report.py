"""What a benchmark promises, and how its figures are shown."""

from __future__ import annotations

from typing import NamedTuple

from loopback import Cost


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


def print_table(medians: dict[str, Cost], own: str = "saver") -> None:
    """Each way's medians, and saver's part of them."""
    mine = medians.get(own)
    print(f"{'':<28}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'saver/wall':>13}{'saver/CPU':>11}")
    for name, cost in medians.items():
        peak = f"{cost.peak / 1e6:.0f}" if cost.peak else "-"
        ratios = ""
        if mine and name != own:
            part = f"{mine.cpu / cost.cpu:.2f}" if cost.cpu and mine.cpu else "-"
            ratios = f"{mine.wall / cost.wall:>13.2f}{part:>11}"
        cpu = f"{cost.cpu:.2f}" if cost.cpu else "-"
        print(f"{name:<28}{cost.wall:>8.2f}{cpu:>8}{peak:>9}{ratios}")
