#!/usr/bin/env python3
"""Makes registry directories full of images, for tests and benchmarks.

    make-images.py sample [--dir testdata/registry]
        A few small images of every kind that registries hold. The same bytes on every run.

    make-images.py bench --dir DIR [--host HOST:PORT] [--list FILE]
        40 multi-arch images with shared bases, 1.3 GB of unique content for amd64.

    make-images.py bench --dir DIR --small --count 1000 [--host HOST:PORT] [--list FILE]
        That many tiny images: an index, a manifest, a config, two layers, one of them shared.

The directory can be served by docker-registry (its `rootdirectory`) or by `saver serve`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import image_tree as it
from image_tree import DOCKER, OCI, Layer, Repository, Tree, platform

MIB = 1 << 20
AMD64 = platform("amd64")
ARM64 = platform("arm64", "v8")
ARM_V7 = platform("arm", "v7")
ALL_PLATFORMS = [AMD64, ARM64, ARM_V7]


# --- the samples ------------------------------------------------------------------------------


def sample(root: Path) -> None:
    """Writes one image of each kind; `testdata/imageList` names them."""
    tree = Tree(root)
    app_index = multi_arch_oci(tree)
    same_content_elsewhere(tree, app_index)
    official_image(tree)
    docker_images(tree)
    nested_index(tree)
    attested_image(tree)
    plain_images(tree)
    helm_chart(tree, "mysql", "8.8.19", tag="8.8.19")
    # Tags have no `+`, so Helm writes `_` for it.
    helm_chart(tree, "web", "1.0.0+build5", tag="1.0.0_build5")
    generic_artifact(tree)
    signature(tree, app_index["digest"])


def base_files() -> dict[str, str]:
    """The layer that most samples share, whatever their platform."""
    return {
        "etc/os-release": 'NAME="Sample Linux"\nID=sample\nVERSION_ID=1\n',
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    }


def app_files(name: str, version: str, target: dict) -> dict[str, str]:
    """A layer that is different for each image, version and platform."""
    words = "/".join(target.values())
    return {"bin/app": f"#!/bin/sh\necho {name} {version} on {words}\n", "etc/platform": words + "\n"}


def image_for(repo: Repository, target: dict, version: str) -> dict:
    """An image of the shared base and one layer of its own, as an index lists it."""
    layers = [repo.layer(base_files()), repo.layer(app_files(repo.name, version, target))]
    return {**repo.image(target, layers), "platform": target}


def multi_arch_oci(tree: Tree) -> dict:
    """demo/app: an OCI index of three platforms (1.0, latest), and a later amd64-only 1.1."""
    repo = Repository(tree, "demo/app")
    index = repo.index([image_for(repo, target, "1.0") for target in ALL_PLATFORMS])
    repo.tag("1.0", index)
    repo.tag("latest", index)
    repo.tag("1.1", repo.index([image_for(repo, AMD64, "1.1")]))
    return index


def same_content_elsewhere(tree: Tree, app_index: dict) -> None:
    """mirror/app: what demo/app:1.0 has, byte for byte, in a second repository."""
    source = Repository(tree, "demo/app")
    copy = Repository(tree, "mirror/app")
    # Built under demo/app's name so that the bytes agree, then linked under the other.
    for target in ALL_PLATFORMS:
        layers = [source.layer(base_files()), source.layer(app_files("demo/app", "1.0", target))]
        copy.image(target, layers)
    tree.link_manifest(copy.name, app_index["digest"])
    copy.tag("1.0", app_index)


def official_image(tree: Tree) -> None:
    """library/hello: an official image in Docker Hub's manner."""
    repo = Repository(tree, "library/hello")
    index = repo.index([image_for(repo, target, "1.0") for target in (AMD64, ARM64)])
    repo.tag("1.0", index)
    repo.tag("latest", index)


def docker_images(tree: Tree) -> None:
    """demo/tool: a Docker manifest list; demo/single: one Docker manifest without a list."""
    tool = Repository(tree, "demo/tool", DOCKER)
    tool.tag("2.1", tool.index([image_for(tool, target, "2.1") for target in (AMD64, ARM64)]))
    single = Repository(tree, "demo/single", DOCKER)
    layers = [single.layer(base_files()), single.layer(app_files(single.name, "1.0", AMD64))]
    single.tag("1.0", single.image(AMD64, layers))


def nested_index(tree: Tree) -> None:
    """demo/nested: an index whose children are indexes, one for each family of processors."""
    repo = Repository(tree, "demo/nested")
    inner = [
        repo.index([image_for(repo, target, "1.0") for target in family])
        for family in ([AMD64], [ARM64, ARM_V7])
    ]
    repo.tag("1.0", repo.index(inner))


def attested_image(tree: Tree) -> None:
    """demo/attested: an index with provenance entries (unknown/unknown), as BuildKit writes it."""
    repo = Repository(tree, "demo/attested")
    images = [image_for(repo, target, "1.0") for target in (AMD64, ARM64)]
    repo.tag("1.0", repo.index(images + [attestation(repo, image) for image in images]))


def attestation(repo: Repository, image: dict) -> dict:
    """The entry, and the manifest behind it, that carries an image's provenance statement."""
    predicate = "https://slsa.dev/provenance/v0.2"
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": predicate,
        "subject": [{"name": repo.name, "digest": dict([image["digest"].split(":")])}],
        "predicate": {"builder": {"id": ""}, "buildType": "https://mobyproject.org/buildkit@v1"},
    }
    unknown = {"architecture": "unknown", "os": "unknown"}
    layer = repo.json_blob(statement, it.IN_TOTO)
    config = {**unknown, "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": it.OCI_MANIFEST,
        "config": repo.json_blob(config, it.OCI_CONFIG),
        "layers": [{**layer, "annotations": {"in-toto.io/predicate-type": predicate}}],
    }
    return {
        **repo.manifest(manifest, it.OCI_MANIFEST),
        "annotations": {
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        },
        "platform": unknown,
    }


def plain_images(tree: Tree) -> None:
    """demo/zstd: a zstd layer; demo/bare: a manifest that leaves out its own mediaType."""
    zstd = Repository(tree, "demo/zstd")
    layers = [zstd.layer(app_files(zstd.name, "1.0", AMD64), it.OCI_LAYER_ZSTD)]
    zstd.tag("1.0", zstd.image(AMD64, layers))
    bare = Repository(tree, "demo/bare")
    layers = [bare.layer(app_files(bare.name, "1.0", AMD64))]
    bare.tag("1.0", bare.image(AMD64, layers, media_type=False))


def helm_chart(tree: Tree, name: str, version: str, *, tag: str) -> None:
    """helm-charts/NAME: a chart that Helm can template, stored as `helm push` stores it."""
    repo = Repository(tree, f"helm-charts/{name}")
    metadata = {"apiVersion": "v2", "name": name, "version": version, "description": "A sample"}
    template = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-" + name + "\n"
        "data:\n  image: {{ .Values.image | quote }}\n"
    )
    chart = it.text_tar({
        f"{name}/Chart.yaml": "".join(f"{key}: {value}\n" for key, value in metadata.items()),
        f"{name}/values.yaml": "image: localhost:5000/demo/app:1.0\n",
        f"{name}/templates/configmap.yaml": template,
    })
    manifest = {
        "schemaVersion": 2,
        "mediaType": it.OCI_MANIFEST,
        "config": repo.json_blob(metadata, it.HELM_CONFIG),
        "layers": [repo.blob(it.gzip_bytes(chart), it.HELM_CHART)],
        "annotations": {
            "org.opencontainers.image.title": name,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.created": it.CREATED,
        },
    }
    repo.tag(tag, repo.manifest(manifest, it.OCI_MANIFEST))


def generic_artifact(tree: Tree) -> None:
    """artifacts/sbom: an OCI 1.1 artifact, with an artifactType and the empty config."""
    repo = Repository(tree, "artifacts/sbom")
    document = {"spdxVersion": "SPDX-2.3", "name": "demo-app", "packages": []}
    manifest = {
        "schemaVersion": 2,
        "mediaType": it.OCI_MANIFEST,
        "artifactType": "application/spdx+json",
        "config": repo.json_blob({}, it.OCI_EMPTY),
        "layers": [repo.json_blob(document, "application/spdx+json")],
    }
    repo.tag("1.0", repo.manifest(manifest, it.OCI_MANIFEST))


def signature(tree: Tree, digest: str) -> None:
    """A cosign-like signature of demo/app:1.0, under the tag that cosign derives from a digest."""
    repo = Repository(tree, "demo/app")
    payload = {
        "critical": {
            "identity": {"docker-reference": repo.name},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    layer = repo.json_blob(payload, it.COSIGN_PAYLOAD)
    config = {"architecture": "", "os": "", "config": {},
              "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": it.OCI_MANIFEST,
        "config": repo.json_blob(config, it.OCI_CONFIG),
        "layers": [{**layer, "annotations": {"dev.cosignproject.cosign/signature": "c2FtcGxl"}}],
    }
    repo.tag(digest.replace(":", "-") + ".sig", repo.manifest(manifest, it.OCI_MANIFEST))


# --- the benchmark's source -------------------------------------------------------------------

BENCH_IMAGES = 40
BENCH_BYTES = 1_300_000_000
"""Unique layer bytes for amd64, before the little that tar, gzip and manifests add."""

BASES = [[28 * MIB], [3 * MIB], [30 * MIB, 8 * MIB, 2 * MIB], [MIB, 300_000], [60 * MIB, 12 * MIB]]
"""Sizes of the layers of the base images, in bytes."""

LARGE = [size * MIB for size in (150, 120, 95, 80, 70, 60)]
"""The few layers that decide how long a run takes: runtimes, drivers, models."""


def bench(root: Path, host: str) -> list[str]:
    """Writes the 40 images; returns their references."""
    tree = Tree(root)
    rng = random.Random(20240101)
    own = own_layer_sizes(rng, BENCH_BYTES - sum(map(sum, BASES)) - sum(LARGE))
    bases = [[random_layer(tree, rng, size) for size in sizes] for sizes in BASES]
    arm_bases = [[random_layer(tree, rng, 2000) for _ in sizes] for sizes in BASES]
    references = []
    for number in range(BENCH_IMAGES):
        repo = Repository(tree, f"bench/service-{number:02}")
        base = rng.randrange(len(BASES))
        layers = bases[base] + [random_layer(tree, rng, size) for size in own[number]]
        # Nobody reads the arm64 layers here; they only have to exist.
        arm_layers = arm_bases[base] + [random_layer(tree, rng, 2000) for _ in own[number]]
        children = [
            {**repo.image(target, layers), "platform": target}
            for target, layers in ((AMD64, layers), (ARM64, arm_layers))
        ]
        repo.tag("v1.0", repo.index(children))
        references.append(f"{host}/{repo.name}:v1.0")
    return references


def own_layer_sizes(rng: random.Random, total: int) -> list[list[int]]:
    """For each image the sizes of its own layers: one or two of 1 to 30 MB, scaled so that all
    add up to `total`, two or three small ones, and a large one for some."""
    middle = [[rng.uniform(1, 30) for _ in range(rng.randint(1, 2))] for _ in range(BENCH_IMAGES)]
    small = [[rng.randrange(200, 400_000) for _ in range(rng.randint(2, 3))] for _ in middle]
    scale = (total - sum(map(sum, small))) / sum(map(sum, middle))
    sizes = [[int(part * scale) for part in parts] + rest for parts, rest in zip(middle, small)]
    for position, size in enumerate(LARGE):
        sizes[position * len(sizes) // len(LARGE)].insert(0, size)
    return sizes


def small(root: Path, host: str, count: int, signed: bool = False) -> list[str]:
    """Writes `count` tiny images, each with a signature and an SBOM if `signed`; returns their
    references."""
    tree = Tree(root)
    rng = random.Random(count)
    base = random_layer(tree, rng, 4000)
    references = []
    for number in range(count):
        repo = Repository(tree, f"small/image-{number:05}")
        layers = [base, random_layer(tree, rng, 1000)]
        image = {**repo.image(AMD64, layers), "platform": AMD64}
        index = repo.index([image])
        repo.tag("v1.0", index)
        if signed:
            refer(repo, index)
        references.append(f"{host}/{repo.name}:v1.0")
    return references


def refer(repo: Repository, subject: dict) -> None:
    """Writes a signature and an SBOM that refer to `subject`, and the index that lists them."""
    entries = []
    for kind in ("application/vnd.dev.sigstore.bundle.v0.3+json", "application/spdx+json"):
        payload = {"kind": kind, "subject": subject["digest"], "name": repo.name}
        manifest = {
            "schemaVersion": 2,
            "mediaType": it.OCI_MANIFEST,
            "artifactType": kind,
            "config": repo.json_blob({}, "application/vnd.oci.empty.v1+json"),
            "layers": [repo.json_blob(payload, kind)],
            "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        }
        entries.append({**repo.manifest(manifest, it.OCI_MANIFEST), "artifactType": kind})
    listed = {"schemaVersion": 2, "mediaType": it.OCI_INDEX, "manifests": entries}
    repo.tag(subject["digest"].replace(":", "-"), repo.manifest(listed, it.OCI_INDEX))


def giants(root: Path, host: str, megabytes: list[int], count: int) -> list[str]:
    """Writes an image with one layer of each size, and `count` images of small layers; the
    giants are the last: whoever takes things as they come has them to the end."""
    tree = Tree(root)
    rng = random.Random(count)
    sizes = [[rng.randrange(100_000, 6_000_000) for _ in range(4)] for _ in range(count)]
    sizes += [[200_000, size * 1_000_000] for size in megabytes]
    references = []
    for number, layers in enumerate(sizes):
        name = "mixed" if number < count else "giant"
        repo = Repository(tree, f"{name}/image-{number:02}")
        image = repo.image(AMD64, [random_layer(tree, rng, size) for size in layers])
        repo.tag("v1.0", repo.index([{**image, "platform": AMD64}]))
        references.append(f"{host}/{repo.name}:v1.0")
    return references


def random_layer(tree: Tree, rng: random.Random, size: int) -> Layer:
    """Stores a layer with one file of `size` bytes that do not compress."""
    diff_id = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for start in range(0, size, MIB):
            yield rng.randbytes(min(MIB, size - start))

    def archive() -> Iterator[bytes]:
        for chunk in it.tar_stream([("opt/data.bin", size, content())]):
            diff_id.update(chunk)
            yield chunk

    stored = tree.put_stream(it.gzip_stream(archive()))
    return Layer({"mediaType": OCI.layer, **stored}, "sha256:" + diff_id.hexdigest())


# --- the command line -------------------------------------------------------------------------


def main() -> int:
    """Reads the arguments and writes the tree they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    profiles = parser.add_subparsers(dest="profile", required=True)
    sample_args = profiles.add_parser("sample", help="small images of every kind")
    default = Path(__file__).resolve().parent.parent / "testdata" / "registry"
    sample_args.add_argument("--dir", type=Path, default=default)
    bench_args = profiles.add_parser("bench", help="a realistic or a wide source")
    bench_args.add_argument("--dir", type=Path, required=True)
    bench_args.add_argument("--host", default="localhost:5000", help="registry in the references")
    bench_args.add_argument("--list", type=Path, help="file for the references (default: stdout)")
    bench_args.add_argument("--small", action="store_true", help="tiny images")
    bench_args.add_argument("--signed", action="store_true",
                            help="a signature and an SBOM for each tiny image")
    bench_args.add_argument("--giants", type=int, nargs="+", metavar="MB",
                            help="layers of these sizes, and --count images of small ones")
    bench_args.add_argument("--count", type=int, default=1000, help="how many tiny images")
    args = parser.parse_args()

    if args.profile == "sample":
        sample(args.dir)
        return 0
    if args.giants:
        references = giants(args.dir, args.host, args.giants, args.count)
    elif args.small:
        references = small(args.dir, args.host, args.count, args.signed)
    else:
        references = bench(args.dir, args.host)
    text = "".join(reference + "\n" for reference in references)
    if args.list:
        args.list.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
