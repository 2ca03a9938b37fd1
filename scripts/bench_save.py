"""Benchmarks of saving: against other ways, one big layer, over TLS, and what durability costs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_report import Bar, Rounds, print_table
from bench_source import ACCEPT, Source, data_path, one_layer, realistic
from loopback import Cost, certificate, docker_registry, empty_files, measure, wait_until

# The bars: saver's figure divided by the other's, at most.
WALL_TO_DOWNLOAD = 1.2
CPU_TO_HASH = 0.4
TO_SKOPEO = 0.35
DURABILITY = 1.1
# And at least.
ONE_STREAM = 0.9
TLS_RATE = 0.7
MEMORY = 3 << 30
"""More bytes than any way writes."""
MEBIBYTE = bytes(1 << 20)
CONNECTIONS = 40
"""Opened over TLS in a run of 40 images, at most: 16 for blobs, 16 for what else is asked, and one more now and then."""


class Ways:
    """Each method fetches the whole source into a fresh directory and says what it cost."""

    def __init__(self, saver: Path, source: Source, address: str, scratch: Path) -> None:
        self._saver, self._source, self._address = saver, source, address
        self._scratch = scratch
        self._list = source.write_list(fresh_path(scratch, "list"), address)

    def saver(self) -> dict[str, Cost]:
        """saver itself."""
        return {"saver": self.save_into(self.fresh("saver"))}

    def save_into(self, out: Path, *options: str | Path) -> Cost:
        """saver, into a directory that may have content."""
        command = [self._saver, "--list", self._list, "--dir", out,
                   "--arch", "amd64", "--progress", "none", *options]
        return measure(command, self._log("saver"))

    def skopeo(self, count: int | None = None) -> dict[str, Cost]:
        """`skopeo sync` into one directory per image, of the first `count` images."""
        out = self.fresh("skopeo")
        images = {name: [tag] for name, tag in self._source.images()[:count]}
        wanted = self._scratch / "skopeo.yaml"  # JSON is YAML
        wanted.write_text(json.dumps({self._address: {"tls-verify": False, "images": images}}))
        command = ["skopeo", "--override-arch", "amd64", "--override-os", "linux",
                   "sync", "--src", "yaml", "--dest", "dir", wanted, out]
        return {"skopeo sync": measure(command, self._log("skopeo"))}

    def proxy(self) -> dict[str, Cost]:
        """A pull of everything through docker-registry as a proxy that keeps what passes. Its own
        processor time counts; the run ends when it has kept every blob."""
        out = self.fresh("proxy")
        manifests, blobs = self._source.content()
        kept = [data_path(out, digest) for digest in blobs]
        with docker_registry(out, self._scratch, proxy_of=self._address) as server:
            before = server.cpu_seconds()
            urls = [(f"http://{server.address}/v2/{path}", Path("/dev/null"))
                    for path in manifests + list(blobs.values())]
            started = time.perf_counter()
            client = measure(self._curl(urls), self._log("proxy"))
            wait_until(lambda: all(path.exists() for path in kept), 60,
                       "the proxy to keep every blob")
            wall = time.perf_counter() - started
            return {"registry proxy": Cost(wall, client.cpu + server.cpu_seconds() - before, 0)}

    def download(self) -> dict[str, Cost]:
        """`curl -Z` of the unique blobs, then a hash of each file, by two programs."""
        out = self.fresh("curl")
        manifests, blobs = self._source.content()
        files = [out / digest.removeprefix("sha256:") for digest in blobs]
        urls = [(f"http://{self._address}/v2/{path}", file)
                for path, file in zip(blobs.values(), files)]
        urls += [(f"http://{self._address}/v2/{path}", out / f"manifest-{number}")
                 for number, path in enumerate(manifests)]
        fetch = measure(self._curl(urls), self._log("curl"))
        return {
            "curl -Z": fetch,
            "curl -Z, sha256sum": fetch + measure(["sha256sum", *files], self._log("sha256sum")),
            "curl -Z, openssl": fetch
            + measure(["openssl", "dgst", "-sha256", *files], self._log("openssl")),
        }

    def fresh(self, name: str) -> Path:
        """A new directory, nothing left for the disk to write, and memory at hand for what comes."""
        out = fresh_path(self._scratch, name)
        out.mkdir()
        with fresh_path(self._scratch, "memory").open("wb") as spare:
            for _ in range(MEMORY >> 20):
                spare.write(MEBIBYTE)
        empty_files(self._scratch)
        os.sync()
        return out

    def _curl(self, urls: list[tuple[str, Path]]) -> list[str | Path]:
        config = self._scratch / "curl.config"
        config.write_text("".join(f'url = "{url}"\noutput = "{file}"\n' for url, file in urls))
        return ["curl", "-q", "-sS", "--fail", "-Z", "--parallel-max", "16",
                "-H", f"Accept: {ACCEPT}", "-K", config]

    def _log(self, name: str) -> Path:
        return self._scratch / f"{name}.log"


def fresh_path(scratch: Path, name: str) -> Path:
    """A name in `scratch` that is not taken."""
    return scratch / f"{sum(1 for _ in scratch.iterdir()):03}-{name}"


def in_turn(count: int, ways: list[Callable[[], dict[str, Cost]]]) -> Rounds:
    """Rounds of all ways; each starts with another, so that none is always first."""
    rounds = Rounds()
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
        by = number % len(ways)
        for way in ways[by:] + ways[:by]:
            rounds.add(way())
    return rounds


def compare(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """All ways, in turn, `--rounds` times."""
    source = realistic(args.work)
    total = source.warm()
    with source.serve(args.source, scratch, args.saver) as server:
        ways = Ways(args.saver, source, server.address, scratch)
        rounds = in_turn(args.rounds, [getattr(ways, name) for name in args.ways])
    print(f"\n{len(source.images())} images, {total / 1e6:.0f} MB of unique blobs for amd64, "
          f"from {args.source}, medians of {args.rounds}\n")
    print_table(rounds)
    return compare_bars(rounds)


def compare_bars(rounds: Rounds) -> list[Bar]:
    """The bars that the ways that were run allow to judge."""
    found = []
    if "saver" in rounds and "curl -Z" in rounds:
        found += [Bar("wall time, of curl -Z alone", rounds.part("saver", "curl -Z"), WALL_TO_DOWNLOAD),
                  Bar("CPU time, of curl -Z and sha256sum", rounds.part("saver", "curl -Z, sha256sum", "cpu"),
                      CPU_TO_HASH)]
    if "saver" in rounds and "skopeo sync" in rounds:
        found += [Bar("wall time, of skopeo sync", rounds.part("saver", "skopeo sync"), TO_SKOPEO),
                  Bar("CPU time, of skopeo sync", rounds.part("saver", "skopeo sync", "cpu"), TO_SKOPEO)]
    return found


def one(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """One layer of 2 GiB: as fast as one stream of SHA-256 goes."""
    source = one_layer(args.work)
    total = source.warm()
    blobs = source.content()[1]
    largest = max(blobs, key=lambda digest: data_path(source.root, digest).stat().st_size)
    file = data_path(source.root, largest)
    with source.serve("nginx", scratch, args.saver) as server:
        ways = Ways(args.saver, source, server.address, scratch)
        url = f"http://{server.address}/v2/{blobs[largest]}"
        hashed = {
            "openssl": ["openssl", "dgst", "-sha256", file],
            "sha256sum": ["sha256sum", file],
            # What receiving it and hashing it takes on these processors, which also send it, and nothing written.
            "curl | openssl": ["sh", "-c", f"curl -q -sS --fail {url} | openssl dgst -sha256"],
        }
        rounds = in_turn(args.rounds, [
            ways.saver,
            lambda: {name: measure(command, scratch / "hash.log") for name, command in hashed.items()},
            lambda: {"saver, not synced": ways.save_into(ways.fresh("saver"), "--durability", "none")},
        ])
    print(f"\none layer of {total / (1 << 30):.2f} GiB from nginx, medians of {args.rounds}\n")
    print_table(rounds)
    medians = rounds.medians()
    fastest = min("openssl", "sha256sum", key=lambda name: medians[name].wall)
    # What the disk takes longer for than the processor is the disk's.
    return [Bar("rate, of one stream's hashing, not synced",
                rounds.part(fastest, "saver, not synced"), ONE_STREAM, at_least=True),
            Bar("rate, of curl | openssl, which writes nothing",
                rounds.part("curl | openssl", "saver, not synced"), ONE_STREAM, at_least=True)]


def durability(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """What surviving a power cut costs, beside what the disk needs for the same bytes anyway."""
    source = realistic(args.work)
    source.warm()
    with source.serve("nginx", scratch, args.saver) as server:
        ways = Ways(args.saver, source, server.address, scratch)

        def unsynced() -> dict[str, Cost]:
            out = ways.fresh("none")
            cost = ways.save_into(out, "--durability", "none")
            started = time.perf_counter()
            os.sync()
            whole = Cost(cost.wall + time.perf_counter() - started, 0, 0)
            return {"not synced": cost, "not synced, then sync": whole}

        rounds = in_turn(args.rounds, [
            lambda: {"saver": ways.save_into(ways.fresh("batch"), "--durability", "batch")}, unsynced,
        ])
    print(f"\ngroup commit and none, from nginx, medians of {args.rounds}\n")
    print_table(rounds)
    price = rounds.part("saver", "not synced, then sync")
    return [Bar("wall time, of a run without syncs and one sync after it", price, DURABILITY)]


def tls(args: argparse.Namespace, scratch: Path) -> list[Bar]:
    """The same images over HTTP and HTTPS, from nginx and from `saver serve`."""
    source = realistic(args.work)
    total = source.warm()
    identity = certificate(scratch)
    bars = []
    for kind in ("nginx", "saver"):
        with source.serve(kind, scratch, args.saver) as plain, \
                source.serve(kind, scratch, args.saver, identity) as secure:
            over_http = Ways(args.saver, source, plain.address, scratch)
            over_tls = Ways(args.saver, source, secure.address, scratch)
            trust = ["--ca-file", identity.certificate]
            rounds = in_turn(args.rounds, [
                lambda: {"HTTP": over_http.save_into(over_http.fresh("plain"))},
                lambda: {"saver": over_tls.save_into(over_tls.fresh("tls"), *trust)},
            ])
        print(f"\n{total / 1e6:.0f} MB over HTTPS (saver) and HTTP, from {kind}\n")
        print_table(rounds)
        rate = rounds.part("HTTP", "saver")
        bars.append(Bar(f"HTTPS, of the plain rate, from {kind}", rate, TLS_RATE, at_least=True))
        if kind == "nginx":
            opened, resumed = secure.connections()
            opened, resumed = opened / args.rounds, resumed / args.rounds
            print(f"\nconnections opened in a run: {opened:.1f}, of which resumed a TLS session: {resumed:.1f}")
            bars.append(Bar("connections opened in a run", opened, CONNECTIONS))
    return bars
