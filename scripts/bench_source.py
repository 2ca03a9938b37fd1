"""The registry directories that benchmarks read from: made once, kept, and served in several ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import image_tree as it
from loopback import Server, Tls, docker_registry, nginx, saver_serve

SCRIPTS = Path(__file__).resolve().parent
ACCEPT = ", ".join([it.OCI_INDEX, it.OCI_MANIFEST, it.DOCKER_LIST, it.DOCKER_MANIFEST, "*/*;q=0.1"])
"""What saver says too: docker-registry takes longer to read it than to read a shorter one."""


class Source:
    """A made registry directory, kept from run to run, and what is in it for amd64."""

    def __init__(self, work: Path, name: str, profile: list[str]) -> None:
        self.root = work / name
        self._names = work / f"{name}.names"
        if not self._names.exists():
            print(f"making {self.root} ...", file=sys.stderr, flush=True)
            script = [sys.executable, SCRIPTS / "make-images.py", "bench", "--dir", self.root]
            unfinished = work / f"{name}.names.part"
            subprocess.run([*script, "--host", "-", "--list", unfinished, *profile], check=True)
            unfinished.rename(self._names)

    def images(self) -> list[tuple[str, str]]:
        """(repository, tag) of each image."""
        lines = self._names.read_text().split()
        return [tuple(line.removeprefix("-/").rsplit(":", 1)) for line in lines]

    def write_list(self, path: Path, address: str) -> Path:
        """Writes the images as a list of references at a registry."""
        path.write_text("".join(f"{address}/{name}:{tag}\n" for name, tag in self.images()))
        return path

    def content(self) -> tuple[list[str], dict[str, str]]:
        """Paths of the manifests under /v2/, and each unique blob's digest with a path."""
        manifests, blobs = [], {}
        for name, tag in self.images():
            index = self._json(self._tagged(name, tag))
            child = next(entry["digest"] for entry in index["manifests"]
                         if entry["platform"]["architecture"] == "amd64")
            manifests += [f"{name}/manifests/{tag}", f"{name}/manifests/{child}"]
            image = self._json(child)
            for blob in [image["config"], *image["layers"]]:
                blobs[blob["digest"]] = f"{name}/blobs/{blob['digest']}"
        return manifests, blobs

    def served(self) -> dict[str, tuple[str, str]]:
        """Media type and digest of each manifest path, for a server that can't follow links."""
        served = {}
        for name, tag in self.images():
            digest = self._tagged(name, tag)
            base = f"/v2/{name}/manifests/"
            served[base + tag] = served[base + digest] = (it.OCI_INDEX, digest)
            for entry in self._json(digest)["manifests"]:
                served[base + entry["digest"]] = (entry["mediaType"], entry["digest"])
        return served

    def serve(self, server: str, work: Path, saver: Path, tls: Tls | None = None) -> Server:
        """Starts a server on the directory: registry, nginx or saver."""
        if server == "nginx":
            return nginx(self.root, work, self.served(), tls)
        if server == "saver":
            return saver_serve(saver, self.root, work, tls)
        return docker_registry(self.root, work)

    def warm(self) -> int:
        """Reads all blobs, so that every run finds them in the page cache; returns the bytes."""
        total = 0
        for digest in self.content()[1]:
            path = data_path(self.root, digest)
            total += path.stat().st_size
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass
        return total

    def _tagged(self, name: str, tag: str) -> str:
        repository = self.root / "docker/registry/v2/repositories" / name
        return (repository / "_manifests/tags" / tag / "current/link").read_text()

    def _json(self, digest: str) -> dict:
        return json.loads(data_path(self.root, digest).read_text())


def realistic(work: Path) -> Source:
    """40 images, 1.3 GB for amd64."""
    return Source(work, "bench-source", [])


def one_layer(work: Path) -> Source:
    """One image with one layer of 2 GiB."""
    return Source(work, "one-source", ["--giants", "2147", "--count", "0"])


def tiny(work: Path, count: int) -> Source:
    """So many images of a few KB."""
    return Source(work, f"many-source-{count}", ["--small", "--count", str(count)])


def data_path(root: Path, digest: str) -> Path:
    """Where a registry directory has the bytes of a digest."""
    encoded = digest.removeprefix("sha256:")
    return root / "docker/registry/v2/blobs/sha256" / encoded[:2] / encoded / "data"
