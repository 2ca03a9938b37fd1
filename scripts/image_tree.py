"""Container images written by hand: layers, manifests, and the tree a registry keeps them in.

Only the Python standard library is used, and the bytes depend on nothing but the input: gzip and
zstd streams are framed here with *stored* blocks, so no compressor's version shows in a digest.

The tree is the one of docker/distribution's storage (registry 2.x and 3.x), below
`DIR/docker/registry/v2`. What a registry reads there:

    blobs/sha256/<2 hex>/<64 hex>/data                            every layer, config and manifest
    repositories/<name>/_layers/sha256/<hex>/link                 each layer and config
    repositories/<name>/_manifests/revisions/sha256/<hex>/link    each manifest and index
    repositories/<name>/_manifests/tags/<tag>/current/link        what the tag means
    repositories/<name>/_manifests/tags/<tag>/index/sha256/<hex>/link
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

# Media types: OCI image specification 1.1, "OCI Image Media Types".
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
# Docker's image manifest version 2, schema 2.
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
# Helm's OCI support, in-toto attestations, cosign signatures.
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
IN_TOTO = "application/vnd.in-toto+json"
COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"

CREATED = "2024-01-01T00:00:00Z"
"""The one timestamp of all images, so that the same bytes come out on every run."""

MTIME = 1_704_067_200
"""The same moment for files in layers, in seconds since 1970."""

_DEFLATE_STORED_MAX = 65_535  # RFC 1951, 3.2.4: LEN has 16 bits
_ZSTD_BLOCK_MAX = 128 << 10  # RFC 8878, 3.1.1.2.4: Block_Maximum_Size


# --- layers -----------------------------------------------------------------------------------


def tar_stream(files: Iterable[tuple[str, int, Iterable[bytes]]]) -> Iterator[bytes]:
    """Yields a USTAR archive of (path, size, chunks), with the parent directories of each file."""
    seen: set[str] = set()
    for path, size, chunks in files:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in seen:
                seen.add(folder)
                yield _tar_header(folder, 0, tarfile.DIRTYPE, 0o755)
        yield _tar_header(path, size, tarfile.REGTYPE, 0o644)
        yield from chunks
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _tar_header(path: str, size: int, kind: bytes, mode: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.type, info.mode, info.mtime = size, kind, mode, MTIME
    return info.tobuf(format=tarfile.USTAR_FORMAT)


def text_tar(files: dict[str, str]) -> bytes:
    """A whole archive of small text files."""
    encoded = {path: text.encode() for path, text in files.items()}
    return b"".join(tar_stream((path, len(data), [data]) for path, data in encoded.items()))


def gzip_stream(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Frames data as gzip (RFC 1952) in stored blocks: valid everywhere, made at memory speed."""
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    checksum, length, pending = 0, 0, bytearray()
    for chunk in chunks:
        checksum, length = zlib.crc32(chunk, checksum), length + len(chunk)
        pending += chunk
        offset = 0
        # Strictly more than one block is kept back, so that the last block is known as the last.
        while len(pending) - offset > _DEFLATE_STORED_MAX:
            yield _stored_block(pending[offset : offset + _DEFLATE_STORED_MAX], last=False)
            offset += _DEFLATE_STORED_MAX
        del pending[:offset]
    yield _stored_block(pending, last=True)
    yield struct.pack("<II", checksum, length & 0xFFFF_FFFF)


def _stored_block(data: bytes | bytearray, *, last: bool) -> bytes:
    return struct.pack("<BHH", last, len(data), len(data) ^ 0xFFFF) + data


def gzip_bytes(data: bytes) -> bytes:
    """`gzip_stream` of one piece of data.

    >>> import gzip
    >>> [size for size in (0, 1, 65535, 65536, 200_000)
    ...  if gzip.decompress(gzip_bytes(bytes(size))) != bytes(size)]
    []
    """
    return b"".join(gzip_stream([data]))


def zstd_bytes(data: bytes) -> bytes:
    """Frames data as zstd (RFC 8878) in raw blocks, with its size and without a checksum.

    >>> zstd_bytes(b"hello").hex(" ", -4)
    '28b52ffd a0050000 00290000 68656c6c 6f'
    """
    # Frame_Header_Descriptor 0xA0: 4-byte content size, single segment, no dictionary.
    frame = [struct.pack("<IBI", 0xFD2F_B528, 0xA0, len(data))]
    starts = range(0, max(len(data), 1), _ZSTD_BLOCK_MAX)
    for start in starts:
        block = data[start : start + _ZSTD_BLOCK_MAX]
        header = len(block) << 3 | (start == starts[-1])  # block type 0: raw
        frame += [header.to_bytes(3, "little"), block]
    return b"".join(frame)


def sha256(data: bytes) -> str:
    """The digest of some bytes, as the specifications write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


# --- the tree ---------------------------------------------------------------------------------


class Tree:
    """Writes blobs, links and tags of one registry directory. What is there already is kept."""

    def __init__(self, root: Path) -> None:
        self._v2 = root / "docker" / "registry" / "v2"
        self._v2.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> dict:
        """Stores a blob; returns its digest and size, the start of a descriptor."""
        digest = sha256(data)
        path = self._data_path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def put_stream(self, chunks: Iterable[bytes]) -> dict:
        """As `put`, for data that is better not held in memory."""
        hasher, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._v2, prefix="_new-", delete=False) as file:
            for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                file.write(chunk)
        os.chmod(file.name, 0o644)
        digest = "sha256:" + hasher.hexdigest()
        path = self._data_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file.name, path)
        return {"digest": digest, "size": size}

    def link_layer(self, repository: str, digest: str) -> None:
        """Makes a layer or config readable through a repository."""
        self._link(self._repository(repository) / "_layers" / _path_of(digest), digest)

    def link_manifest(self, repository: str, digest: str) -> None:
        """Makes a manifest or index readable, by digest, through a repository."""
        self._link(self._repository(repository) / "_manifests/revisions" / _path_of(digest), digest)

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Points a tag at a manifest or index; the file that makes it visible is written last."""
        folder = self._repository(repository) / "_manifests" / "tags" / tag
        self._link(folder / "index" / _path_of(digest), digest)
        self._link(folder / "current", digest)

    def _data_path(self, digest: str) -> Path:
        algorithm, encoded = digest.split(":")
        return self._v2 / "blobs" / algorithm / encoded[:2] / encoded / "data"

    def _repository(self, name: str) -> Path:
        return self._v2 / "repositories" / name

    @staticmethod
    def _link(folder: Path, digest: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link").write_text(digest)  # 71 bytes, no newline


def _path_of(digest: str) -> str:
    return digest.replace(":", "/")


# --- images -----------------------------------------------------------------------------------


class Flavour:
    """The media types of one family of manifests."""

    def __init__(self, index: str, manifest: str, config: str, layer: str) -> None:
        self.index, self.manifest, self.config, self.layer = index, manifest, config, layer


OCI = Flavour(OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
DOCKER = Flavour(DOCKER_LIST, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP)


class Layer:
    """A stored layer: its descriptor, and the digest of the archive inside the compression."""

    def __init__(self, descriptor: dict, diff_id: str) -> None:
        self.descriptor, self.diff_id = descriptor, diff_id


class Repository:
    """One repository of a tree; each method stores content, links it, returns its descriptor."""

    def __init__(self, tree: Tree, name: str, flavour: Flavour = OCI) -> None:
        self.tree, self.name, self.flavour = tree, name, flavour

    def layer(self, files: dict[str, str], media_type: str | None = None) -> Layer:
        """Stores a layer of text files, as gzip unless the media type says zstd."""
        archive = text_tar(files)
        media_type = media_type or self.flavour.layer
        packed = zstd_bytes(archive) if media_type.endswith("zstd") else gzip_bytes(archive)
        return Layer(self.blob(packed, media_type), sha256(archive))

    def blob(self, data: bytes, media_type: str) -> dict:
        """Stores a layer or a config as it is."""
        descriptor = {"mediaType": media_type, **self.tree.put(data)}
        self.tree.link_layer(self.name, descriptor["digest"])
        return descriptor

    def json_blob(self, value: object, media_type: str) -> dict:
        """Stores a layer or a config written as compact JSON."""
        return self.blob(_json(value), media_type)

    def image(
        self, platform: dict, layers: list[Layer], *, media_type: bool = True, config: dict | None = None
    ) -> dict:
        """Stores config and manifest of an image; `media_type` False leaves the field out, as
        the OCI specification allows. Fields of `config` replace those of the sample."""
        config = {
            **platform,
            "created": CREATED,
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/app"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": CREATED, "created_by": "make-images"} for _ in layers],
            **(config or {}),
        }
        for layer in layers:
            self.tree.link_layer(self.name, layer.descriptor["digest"])
        manifest = {
            "schemaVersion": 2,
            **({"mediaType": self.flavour.manifest} if media_type else {}),
            "config": self.json_blob(config, self.flavour.config),
            "layers": [layer.descriptor for layer in layers],
        }
        return self.manifest(manifest, self.flavour.manifest)

    def index(self, children: list[dict]) -> dict:
        """Stores an index (or manifest list) of these descriptors."""
        index = {"schemaVersion": 2, "mediaType": self.flavour.index, "manifests": children}
        return self.manifest(index, self.flavour.index)

    def manifest(self, value: dict, media_type: str) -> dict:
        """Stores a manifest of any kind."""
        descriptor = {"mediaType": media_type, **self.tree.put(_json(value))}
        self.tree.link_manifest(self.name, descriptor["digest"])
        return descriptor

    def tag(self, tag: str, descriptor: dict) -> None:
        """Points a tag at what a descriptor names."""
        self.tree.tag(self.name, tag, descriptor["digest"])


def platform(architecture: str, variant: str | None = None) -> dict:
    """A Linux platform, as descriptors and configs have it."""
    return {"architecture": architecture, "os": "linux", **({"variant": variant} if variant else {})}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
