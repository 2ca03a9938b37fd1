"""Prints a CycloneDX 1.5 list of the crates in the binary: `dist_sbom.py VERSION TARGET`.

The crates are those that `cargo metadata` resolves for the target, without build and test
dependencies. The output depends on Cargo.lock alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def linked(metadata: dict, root: str) -> dict[str, list[str]]:
    """The packages that `root` links, each with those that it depends on itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        normal = [
            dependency["pkg"]
            for dependency in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
        found[package] = normal
        waiting.extend(normal)
    return found


def component(package: dict) -> dict:
    """A package as CycloneDX names it."""
    license_of = package.get("license")
    return {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        **({"licenses": [{"expression": license_of.replace("/", " OR ")}]} if license_of else {}),
    }


def purl(package: dict) -> str:
    """The package URL of a crate."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def main() -> None:
    """Prints the list."""
    version, target = sys.argv[1:]
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"],
            check=True, stdout=subprocess.PIPE,
        ).stdout
    )
    packages = {package["id"]: package for package in metadata["packages"]}
    root = metadata["resolve"]["root"]
    found = linked(metadata, root)
    libraries = sorted((packages[key] for key in found if key != root), key=purl)
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
            "component": {**component(packages[root]), "type": "application", "version": version},
        },
        "components": [component(package) for package in libraries],
        "dependencies": [
            {"ref": purl(packages[key]), "dependsOn": sorted(purl(packages[each]) for each in needs)}
            for key, needs in sorted(found.items(), key=lambda item: purl(packages[item[0]]))
        ],
    }
    json.dump(bom, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
