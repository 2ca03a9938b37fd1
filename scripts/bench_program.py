"""Benchmarks of the program itself: how soon it starts, how large it is, how long it takes to build."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from bench_report import Bar
from loopback import measure

START = 10
"""Milliseconds."""
SIZE = 20
"""MB, stripped."""
BUILD = 240
"""Seconds on two cores, from nothing."""


def start(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """From exec to exit of the least that can be asked, and of `saver ls` over an empty tree."""
    (scratch / "tree").mkdir()
    commands = {"--version": ["--version"], "ls": ["ls", "--dir", scratch / "tree"]}
    bars = []
    for name, words in commands.items():
        walls = [measure([args.saver, *words], scratch / "start.log").wall for _ in range(40)]
        took = statistics.median(walls) * 1e3
        bars.append(Bar(f"saver {name}, ms", took, START))
    return bars + [Bar("the program, MB", args.saver.stat().st_size / 1e6, SIZE)]


def build(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """A cold `cargo build --release`, with cargo's own report of what each crate took."""
    target = scratch / "target"
    started = time.perf_counter()
    cost = measure(["taskset", "-c", "0,1", "cargo", "build", "--release", "--locked", "--timings",
                    "--manifest-path", Path(__file__).resolve().parent.parent / "Cargo.toml",
                    "--target-dir", target], scratch / "build.log")
    took = time.perf_counter() - started
    report = args.work / "cargo-timing.html"
    report.write_bytes((target / "cargo-timings/cargo-timing.html").read_bytes())
    print(f"\na cold build: {took:.0f} s, {cost.cpu:.0f} s CPU; what each crate took: {report}")
    size = (target / "release/saver").stat().st_size / 1e6
    return [Bar("cold build, seconds", took, BUILD), Bar("the program, MB", size, SIZE)]
