"""How well a distant link is used: runs through scripts/link.py, and what its record says of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from loopback import Server, free_port

DELAY, EACH, ALL = 0.025, 8e6, 60e6
"""Seconds each way; bytes a second of one connection, and of the link."""

ROUND_TRIP = 2 * DELAY


class Link(Server):
    """A distant link to a server, and its record once it has been stopped."""

    def __init__(self, to: str, work: Path) -> None:
        port = free_port()
        self._record = work / f"link-{port}.json"
        script = Path(__file__).resolve().parent / "link.py"
        options = ["--delay", DELAY, "--each", EACH, "--all", ALL, "--record", self._record]
        super().__init__([sys.executable, script, "--to", to, "--port", port, *options],
                         port, work / f"link-{port}.log")

    def passed(self, begun: float, wall: float) -> Passed:
        """What passed in a run that began at `begun` (seconds of the epoch) and took `wall` seconds."""
        return Passed(json.loads(self._record.read_text()), begun, wall)


class Passed:
    """What passed over a link in one run."""

    def __init__(self, record: dict, begun: float, wall: float) -> None:
        late = begun - record["started"]
        self.wall = wall
        self.most_open = record["most_open"]
        # The connection that only asked whether the link is up is none of the run's.
        self.connections = record["connections"] - 1
        self.requests = [(at - late, line) for at, line in record["requests"]]
        width = record["slice"]
        self._slices = [(number * width - late, length) for number, length in record["slices"]]

    def share(self, total: int) -> float:
        """The part of the link that brought content, of which there are so many bytes, from the
        program's start to its end. What came twice or in vain counts as an idle link."""
        return total / (ALL * self.wall)

    def last_tenth(self) -> float:
        """The part that was used in the last tenth of the time up to the last byte."""
        end = self._slices[-1][0]
        rest = sum(length for at, length in self._slices if at >= end * 0.9)
        return rest / (ALL * end * 0.1)

    def first_blob(self, digests: set[str]) -> float:
        """Round trips from the program's start until the first byte of one of these blobs."""
        asked = min(at for at, line in self.requests
                    if line.startswith("GET") and any(digest in line for digest in digests))
        return (asked + ROUND_TRIP) / ROUND_TRIP

    def pipelining(self) -> float:
        """The run's time, of what its requests take at least over as many connections."""
        return self.wall / (len(self.requests) * ROUND_TRIP / self.most_open)
