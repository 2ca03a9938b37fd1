"""Benchmarks of many tiny images: first runs, runs with nothing to do, and what they leave alone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench_report import Bar
from bench_save import Ways, in_turn
from bench_source import ACCEPT, Source, tiny
from loopback import Cost, head_all

WALL_TO_SKOPEO = 0.6
RECHECK_TO_HEADS = 1.2
GROWTH = 1.2
"""Time per image with the most images, of that with the fewest."""
PEAK_MEMORY = {1000: 40_000_000, 10_000: 64_000_000}
"""Bytes, by the number of images."""
OPEN_FILES = 512
REQUESTS = 3
"""For each new image, beside its blobs."""
SKOPEO_IMAGES = 1000
RECHECKS = 3000
"""Images that a round looks at again, about: for 1000, which take less than a second, three runs."""


class Found(NamedTuple):
    """What one number of images took."""

    count: int
    first: Cost
    again: Cost
    heads: float


def many(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """Each count of `--counts` in turn, from the source of `--source`."""
    bars, found = [], []
    for count in args.counts:
        source = tiny(args.work, count)
        source.warm()
        with source.serve(args.source, scratch, args.saver) as server:
            ways = Ways(args.saver, source, server.address, scratch)
            one, own = run(args, source, ways, server.address)
            found.append(one)
            bars += own
            if count == min(args.counts):
                bars += beside_skopeo(args, ways, one)
    growth = [Bar(f"time for an image, {name}, {found[-1].count} of {found[0].count}",
                  (of(found[-1]).wall / found[-1].count) / (of(found[0]).wall / found[0].count), GROWTH)
              for name, of in (("first run", lambda one: one.first),
                               ("nothing to do", lambda one: one.again))]
    bars += growth if len(found) > 1 else []
    return bars + [requests(args, scratch)]


def run(args: argparse.Namespace, source: Source, ways: Ways, address: str) -> tuple[Found, list[Bar]]:
    """A first run, then runs with nothing to do beside a load tool's HEADs."""
    count = len(source.images())
    paths = [f"/v2/{name}/manifests/{tag}" for name, tag in source.images()]
    out = ways.fresh("many")
    first = ways.save_into(out)
    before = entries(out)
    times = args.rounds * max(1, RECHECKS // count)
    rounds = in_turn(times, [
        lambda: {"saver": synced(lambda: ways.save_into(out))},
        lambda: {"HEADs": synced(lambda: Cost(head_all(address, paths, ACCEPT, args.connections), 0, 0))},
    ])
    changed = len(before ^ entries(out))
    medians = rounds.medians()
    found = Found(count, first, medians["saver"], medians["HEADs"].wall)
    peak, files = max(first.peak, found.again.peak), max(first.files, found.again.files)
    print(f"\n{count} tiny images from {args.source}, medians of {times} runs with nothing to do\n")
    for name, cost in (("first run", first), ("nothing to do", found.again)):
        print(f"{name:<21}{cost.wall:7.2f} s, {cost.cpu:6.2f} s CPU, {cost.wall / count * 1e3:6.2f} ms an image, "
              f"{cost.peak / 1e6:3.0f} MB, {cost.files} files open")
    print(f"HEADs by a load tool {found.heads:7.2f} s over {args.connections} connections")
    limit = next((limit for most, limit in PEAK_MEMORY.items() if count <= most), 64_000_000)
    bars = [
        Bar(f"{count}: files written by a run with nothing to do", changed, 0),
        Bar(f"{count}: peak memory, MB", peak / 1e6, limit / 1e6),
        Bar(f"{count}: most files open", files, OPEN_FILES),
    ]
    # From a source that answers faster than anybody can ask, a run takes what its own work takes.
    if args.source == "registry":
        bars.append(Bar(f"{count}: run with nothing to do, of the HEADs",
                        rounds.part("saver", "HEADs"), RECHECK_TO_HEADS))
    return found, bars


def synced(run: Callable[[], Cost]) -> Cost:
    """What `run` costs with nothing left for the disk to write."""
    os.sync()
    return run()


def beside_skopeo(args: argparse.Namespace, ways: Ways, own: Found) -> list[Bar]:
    """The first run beside `skopeo sync` of the same images, as far as that is worth waiting for."""
    if "skopeo" not in args.ways:
        return []
    count = min(own.count, SKOPEO_IMAGES)
    theirs = ways.skopeo(count)["skopeo sync"]
    print(f"skopeo sync of {count:<6}{theirs.wall:7.2f} s, {theirs.cpu:6.2f} s CPU")
    part = (own.first.wall / own.count) / (theirs.wall / count)
    return [Bar(f"{count}: first run, of skopeo sync", part, WALL_TO_SKOPEO)]


def requests(args: argparse.Namespace, scratch: Path) -> Bar:
    """Counts what a run of new images asks for beside blobs, in nginx's access log."""
    source = tiny(args.work, min(args.counts))
    with source.serve("nginx", scratch, args.saver) as server:
        ways = Ways(args.saver, source, server.address, scratch)
        ways.save_into(ways.fresh("requests"))
    # One request for the whole run finds out how the registry is spoken to.
    asked = [line for line in server.requests() if "/manifests/" in line or "/tags/" in line]
    return Bar("requests for a new image beside its blobs", len(asked) / len(source.images()), REQUESTS)


def entries(root: Path) -> set[tuple[str, int, int]]:
    """Everything in a tree with its inode and when it changed last."""
    found = set()
    for directory, _, files in os.walk(root):
        for name in [".", *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found.add((path, status.st_ino, status.st_ctime_ns))
    return found
