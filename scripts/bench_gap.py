"""Benchmarks of bundles: making one, unbundling it, and an increment."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from bench_report import Bar, Rounds, print_table
from bench_save import in_turn
from bench_source import Source, realistic
from loopback import Cost, measure

# At most.
COPY = 1.3
CPU = 0.5
PEAK_MB = 40
INCREMENT = 3.0
"""Times its part of the bytes."""


def gap(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """`saver bundle` and `saver unbundle` of all images, `cp -r` and `tar | sha256sum` of the same files."""
    source = realistic(args.work)
    total = source.warm()
    log = scratch / "gap.log"
    numbers = itertools.count()

    def copy() -> dict[str, Cost]:
        return {"cp -r": measure(["cp", "-r", source.root / "docker", scratch / f"copy-{next(numbers)}"], log)}

    def tar() -> dict[str, Cost]:
        command = 'tar -C "$0" -c docker | sha256sum'
        return {"tar | sha256sum": measure(["sh", "-c", command, source.root], log)}

    def bundle() -> dict[str, Cost]:
        number = next(numbers)
        name, far = scratch / f"gap-{number}", scratch / f"far-{number}"
        made = measure([args.saver, "-q", "bundle", "--dir", source.root, "-o", name], log)
        return {"bundle": made, "unbundle": measure([args.saver, "-q", "unbundle", name, "--dir", far], log)}

    rounds = in_turn(args.rounds, [copy, tar, bundle])
    increment = increments(args, scratch, source, log)
    print(f"\nbundles of {total / 1e6:.0f} MB, medians of {args.rounds}\n")
    print_table(rounds)
    medians = rounds.medians()
    bars = [Bar("an increment's time, of its part of the bytes", increment(rounds), INCREMENT)]
    for verb in ("bundle", "unbundle"):
        bars += [
            Bar(f"{verb}, of cp -r", rounds.part(verb, "cp -r"), COPY),
            Bar(f"{verb}, CPU of tar | sha256sum", rounds.part(verb, "tar | sha256sum", "cpu"), CPU),
            Bar(f"{verb}, peak MB", medians[verb].peak / 1e6, PEAK_MB),
        ]
    return bars


def increments(args: argparse.Namespace, scratch: Path, source: Source, log: Path):
    """Bundles and unbundles the last image into a directory with all others; how its time compares with the whole's."""
    images = [f"{name}:{tag}" for name, tag in source.images()]
    most, have = scratch / "most", scratch / "have"
    measure([args.saver, "-q", "bundle", "--dir", source.root, "-o", most, *images[:-1]], log)
    costs, parts = [], []
    for number in range(args.rounds):
        far, news = scratch / f"increment-{number}", scratch / f"news-{number}"
        measure([args.saver, "-q", "unbundle", most, "--dir", far], log)
        measure([args.saver, "-q", "have", far, "-o", have], log)
        made = measure([args.saver, "-q", "bundle", "--dir", source.root, "--since", have, "-o", news], log)
        costs.append(made.wall + measure([args.saver, "-q", "unbundle", news, "--dir", far], log).wall)
        parts.append(size(news) / size(most))

    def compared(rounds: Rounds) -> float:
        medians = rounds.medians()
        whole = medians["bundle"].wall + medians["unbundle"].wall
        return sorted(costs)[args.rounds // 2] / whole / parts[0]

    return compared


def size(bundle: Path) -> int:
    """The bytes of a bundle's parts."""
    return sum(part.stat().st_size for part in bundle.glob("part-*"))
