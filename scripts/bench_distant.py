"""Benchmarks over a distant link: how much of it is used, and how soon."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import distant as far
from bench_report import Bar
from bench_save import Ways
from bench_source import Source, data_path

LINK_IDLE, TAIL_IDLE = 0.08, 0.08
"""Of a distant link, over the whole run and in the last tenth of it."""
FIRST_BLOB = 6
"""Round trips from the program's start until a layer's first byte."""
SIGNED, SIGNED_AGAIN = 2.2, 3.0
"""Time of a run with referrers, of the same without; further requests an image of the next run."""
PIPELINING, AGAIN = 1.3, 1.2
"""Time of a run of small images, and of one with nothing to do, of requests x round trip / connections."""


def distant(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """A distant link: small layers and a few giants, one giant alone, many small images."""
    found: list[Bar] = []
    print(f"\n{'over a distant link':<22}{'wall s':>8}{'link used':>11}{'last tenth':>12}"
          f"{'connections':>13}{'requests':>10}")
    for name, profile in {
        "mixed": ["--giants", "300", "450", "600", "--count", "30"],
        "one giant": ["--giants", "600", "--count", "0"],
        "1000 small images": ["--small", "--count", "1000"],
    }.items():
        source = Source(args.work, f"distant-{name.replace(' ', '-')}", profile)
        total = source.warm()
        outs = [Path(tempfile.mkdtemp(prefix="out-", dir=scratch)) for _ in range(args.rounds)]
        runs = [distant_run(args, source, out) for out in outs]
        run = sorted(runs, key=lambda run: run.wall)[len(runs) // 2]
        share = run.share(total)
        print(f"{name:<22}{run.wall:>8.2f}{share:>11.2f}{run.last_tenth():>12.2f}"
              f"{run.connections:>13}{len(run.requests):>10}", flush=True)
        if name == "1000 small images":
            what = f"{name}, of requests x round trip / {run.most_open}"
            found.append(Bar(what, run.pipelining(), PIPELINING))
            again = distant_run(args, source, outs[0])
            what = f"{name}, nothing to do, of requests x round trip / {again.most_open}"
            found.append(Bar(what, again.pipelining(), AGAIN))
            continue
        if name == "mixed":
            found.append(Bar(f"{name}: link left idle", 1 - share, LINK_IDLE))
            tail = 1 - run.last_tenth()
            found.append(Bar(f"{name}: link left idle, last tenth", tail, TAIL_IDLE))
        layers = {digest for digest in source.content()[1]
                  if data_path(source.root, digest).stat().st_size > 50_000}
        found.append(Bar(f"{name}: round trips to a layer's first byte",
                         run.first_blob(layers), FIRST_BLOB))
    return found


def signed(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """1000 images with a signature and an SBOM each over a distant link, beside the same without
    them; then again with nothing to do. `saver serve` has the referrers API."""
    count = 1000
    source = Source(args.work, "distant-signed", ["--small", "--signed", "--count", str(count)])
    source.warm()
    print(f"\n{'over a distant link':<22}{'wall s':>8}{'requests':>10}{'again s':>9}{'requests':>10}")
    walls, requests = {}, {}
    for kinds in ("none", "all"):
        runs = []
        for _ in range(args.rounds):
            out = Path(tempfile.mkdtemp(prefix="out-", dir=scratch))
            options = ("--referrers", kinds)
            first = distant_run(args, source, out, "saver", *options)
            runs.append((first, distant_run(args, source, out, "saver", *options)))
        first, again = sorted(runs, key=lambda run: run[0].wall)[len(runs) // 2]
        walls[kinds], requests[kinds] = first.wall, len(again.requests)
        print(f"{'referrers: ' + kinds:<22}{first.wall:>8.2f}{len(first.requests):>10}"
              f"{again.wall:>9.2f}{len(again.requests):>10}", flush=True)
    more = (requests["all"] - requests["none"]) / count
    return [
        Bar("time with a signature and an SBOM each, of that without", walls["all"] / walls["none"], SIGNED),
        # The index and its one manifest, and the tags of each image's repository.
        Bar("nothing to do: further requests an image", more, SIGNED_AGAIN),
    ]


def distant_run(
    args: argparse.Namespace, source: Source, out: Path, server: str = "nginx", *options: str
) -> far.Passed:
    """One run into `out`, over a link of its own."""
    scratch = Path(tempfile.mkdtemp(prefix="distant-", dir=out.parent))
    with source.serve(server, scratch, args.saver) as server:
        with far.Link(server.address, scratch) as link:
            ways = Ways(args.saver, source, link.address, scratch)
            os.sync()
            begun = time.time()
            cost = ways.save_into(out, "--plain-http", link.address, *options)
        return link.passed(begun, cost.wall)
