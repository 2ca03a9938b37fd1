"""Benchmarks of a saved tree: verifying it, and serving from it."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

from bench_report import Bar, print_table
from bench_save import in_turn
from bench_source import ACCEPT, Source, data_path, realistic, tiny
from loopback import Cost, measure

# At least.
VERIFY_RATE = 0.9
SENDFILE = 0.8
REQUESTS = 20
OFFLINE = 2.0
"""Seconds, at most."""
BIG = 8 << 20
"""Blobs of so many bytes count as big."""


def verify(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """`saver verify --deep` and `sha256sum` of the same blobs on two cores."""
    source = realistic(args.work)
    total = source.warm()
    listed = scratch / "blobs"
    blobs = list((source.root / "docker/registry/v2/blobs").rglob("data"))
    listed.write_bytes(b"\0".join(str(path).encode() for path in blobs))
    log = scratch / "verify.log"
    rounds = in_turn(args.rounds, [
        lambda: {"saver": measure([args.saver, "verify", "--deep", "--dir", source.root], log)},
        lambda: {"xargs -P2 sha256sum": measure(
            ["xargs", "-0", "-P2", "-n8", "-a", listed, "sha256sum"], log)},
    ])
    print(f"\nverify --deep of {total / 1e6:.0f} MB, medians of {args.rounds}\n")
    print_table(rounds)
    rate = rounds.part("xargs -P2 sha256sum", "saver")
    return [Bar("verify --deep, of sha256sum's rate", rate, VERIFY_RATE, at_least=True)]


def offline(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """`saver diff` and `saver verify --list` of the most images of `--counts`, against their list and themselves."""
    count = max(args.counts)
    source = tiny(args.work, count)
    source.warm()
    images = scratch / "images"
    images.write_text("".join(f"registry.example/{name}:{tag}\n" for name, tag in source.images()))
    listed = ["--list", images, "--arch", "all"]
    log = scratch / "offline.log"
    ways = {
        "diff": [args.saver, "diff", source.root, source.root],
        "verify --list": [args.saver, "verify", "--dir", source.root, *listed],
    }
    rounds = in_turn(args.rounds, [
        lambda name=name, command=command: {name: measure(command, log)} for name, command in ways.items()])
    print(f"\n{count} images, offline, medians of {args.rounds}\n")
    print_table(rounds)
    medians = rounds.medians()
    return [Bar(f"seconds, {name} of {count} images", medians[name].wall, OFFLINE) for name in ways]


def serve(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """`saver serve`: big blobs beside nginx, manifests beside docker-registry."""
    source = realistic(args.work)
    source.warm()
    with source.serve("saver", scratch, args.saver) as own, \
            source.serve("nginx", scratch, args.saver) as nginx, \
            source.serve("registry", scratch, args.saver) as registry:
        big, total = big_blobs(source)
        servers = {"saver": own, "nginx": nginx, "docker-registry": registry}

        def fetch(name: str) -> dict[str, Cost]:
            urls = scratch / f"{name}.urls"
            urls.write_text("".join(
                f'url = "http://{servers[name].address}/v2/{path}"\noutput = "/dev/null"\n' for path in big * 3))
            command = ["curl", "-q", "-sS", "--fail", "-Z", "--parallel-max", "8", "-K", urls]
            before = servers[name].cpu_seconds()
            wall = measure(command, scratch / "curl.log").wall
            return {name: Cost(wall, servers[name].cpu_seconds() - before, 0)}

        rounds = in_turn(args.rounds, [lambda name=name: fetch(name) for name in servers])
        print(f"\n{total * 3 / 1e6:.0f} MB in big blobs; the processor time is the server's\n")
        print_table(rounds)
        name, tag = source.images()[0]
        rates = {}
        for label in ("saver", "docker-registry") * args.rounds:
            url = f"http://{servers[label].address}/v2/{name}/manifests/{tag}"
            rates.setdefault(label, []).append(wrk(url))
    own, other = (sorted(rates[label])[args.rounds // 2] for label in ("saver", "docker-registry"))
    print(f"\nmanifests a second: {own:.0f}, docker-registry {other:.0f}")
    return [
        Bar("big blobs, of nginx's rate", rounds.part("nginx", "saver"), SENDFILE, at_least=True),
        Bar("manifests a second, of docker-registry's", own / other, REQUESTS, at_least=True),
    ]


def big_blobs(source: Source) -> tuple[list[str], int]:
    """The paths of big blobs, and their bytes together."""
    sizes = {path: data_path(source.root, digest).stat().st_size
             for digest, path in source.content()[1].items()}
    big = {path: size for path, size in sizes.items() if size >= BIG}
    return list(big), sum(big.values())


def wrk(url: str) -> float:
    """Requests a second over 16 connections."""
    command = ["wrk", "-t1", "-c16", "-d2s", "-H", f"Accept: {ACCEPT}", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output:
        raise RuntimeError(f"wrk saw failures:\n{output}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
