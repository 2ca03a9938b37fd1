"""Writes the OCI image of saver into a tree: `dist_image.py --version V --arch A --binary PATH --tree DIR`.

The image has the binary, the CA certificates of this machine and a user that is not root. A binary that is linked
to the C library gets the library and its loader too; one that is linked statically (musl) needs neither.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import subprocess
import tarfile
import time
from pathlib import Path

from image_tree import Layer, OCI_LAYER_GZIP, Repository, Tree, platform, sha256

CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
USER = 65532
"""The user `nonroot` of many images without a shell."""


def libraries(binary: Path) -> list[Path]:
    """The shared libraries and the loader that a binary needs; none if it is linked statically."""
    listed = subprocess.run(["ldd", binary], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", listed.stdout)]


def layer_tar(files: dict[str, tuple[bytes, int]], seconds: int) -> bytes:
    """A tar archive of the files, with their directories, equal for equal input."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"."})
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, seconds
            archive.addfile(entry)
        for path, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(data), mode, seconds
            archive.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o1777, seconds
        archive.addfile(entry)
    return buffer.getvalue()


def image_files(binary: Path) -> dict[str, tuple[bytes, int]]:
    """What the image contains: content and mode of each path."""
    files = {
        "usr/bin/saver": (binary.read_bytes(), 0o755),
        "etc/ssl/certs/ca-certificates.crt": (CA_BUNDLE.read_bytes(), 0o644),
        "etc/passwd": (f"root:x:0:0::/:/sbin/nologin\nnonroot:x:{USER}:{USER}::/tmp:/sbin/nologin\n".encode(), 0o644),
        "etc/group": (f"root:x:0:\nnonroot:x:{USER}:\n".encode(), 0o644),
        "etc/nsswitch.conf": (b"hosts: files dns\n", 0o644),
    }
    for library in libraries(binary):
        files[str(library).lstrip("/")] = (library.read_bytes(), 0o755)
    return files


def main() -> None:
    """Writes the image as `saver:VERSION` and `saver:latest`, an index of one platform."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--binary", required=True, type=Path)
    parser.add_argument("--tree", required=True, type=Path)
    arguments = parser.parse_args()
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

    repository = Repository(Tree(arguments.tree), "library/saver")
    archive = layer_tar(image_files(arguments.binary), seconds)
    packed = gzip.compress(archive, compresslevel=9, mtime=0)
    layer = Layer(repository.blob(packed, OCI_LAYER_GZIP), sha256(archive))
    target = platform(arguments.arch)
    config = {
        "created": created,
        "config": {
            "Entrypoint": ["/usr/bin/saver"],
            "User": f"{USER}:{USER}",
            "WorkingDir": "/tmp",
            "Env": ["PATH=/usr/bin"],
            "Labels": {
                "org.opencontainers.image.title": "saver",
                "org.opencontainers.image.version": arguments.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
    }
    image = repository.image(target, [layer], config=config)
    index = repository.index([{**image, "platform": target}])
    repository.tag(arguments.version, index)


if __name__ == "__main__":
    main()
