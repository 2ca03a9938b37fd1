#!/usr/bin/env python3
"""Holds the licences and sources of all dependencies to what deny.toml allows.

A small stand-in for `cargo deny check licenses sources`, which takes minutes to install. It reads
`cargo metadata` and the [licenses] table of deny.toml, and believes what each crate declares of
itself (cargo-deny also reads licence files). Exit code 1 names every crate that is not allowed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


class Expression:
    """Answers whether an SPDX licence expression can be met with the allowed licences.

    >>> allowed = {"MIT", "ISC", "Apache-2.0 WITH LLVM-exception"}
    >>> [Expression(text, allowed).is_met() for text in (
    ...     "MIT", "GPL-3.0", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "GPL-3.0 AND MIT",
    ...     "ISC AND (GPL-3.0 OR MIT)", "Apache-2.0", "Apache-2.0 WITH LLVM-exception")]
    [True, False, True, True, False, True, False, True]
    >>> Expression("MIT OR", allowed).is_met()
    Traceback (most recent call last):
    ValueError: unexpected end
    """

    def __init__(self, text: str, allowed: set[str]) -> None:
        # Old crates write `A/B` where SPDX writes `A OR B`.
        self._tokens = re.findall(r"[()]|[^\s()]+", text.replace("/", " OR "))
        self._allowed = allowed

    def is_met(self) -> bool:
        """Raises ValueError when the expression can't be read."""
        met = self._either()
        if self._tokens:
            raise ValueError(f"unexpected {self._tokens[0]!r}")
        return met

    def _either(self) -> bool:
        met = self._all()
        while self._take("OR"):
            met = self._all() or met
        return met

    def _all(self) -> bool:
        met = self._one()
        while self._take("AND"):
            met = self._one() and met
        return met

    def _one(self) -> bool:
        if not self._tokens:
            raise ValueError("unexpected end")
        token = self._tokens.pop(0)
        if token == "(":
            met = self._either()
            if not self._take(")"):
                raise ValueError("missing )")
            return met
        if self._take("WITH"):
            token += " WITH " + self._tokens.pop(0)
        return token in self._allowed

    def _take(self, token: str) -> bool:
        if self._tokens[:1] != [token]:
            return False
        self._tokens.pop(0)
        return True


def problem_of(package: dict, allowed: set[str]) -> str | None:
    """What is wrong with a package of `cargo metadata`, or None."""
    if package["source"] not in (None, CRATES_IO):
        return f"comes from {package['source']}"
    if not package["license"]:
        return "declares no licence"
    try:
        met = Expression(package["license"], allowed).is_met()
    except (ValueError, IndexError) as error:
        return f"licence {package['license']!r} can't be read: {error}"
    return None if met else f"licence {package['license']!r} is not allowed"


def main() -> int:
    """Checks every package and prints what is wrong."""
    root = Path(__file__).resolve().parent.parent
    rules = tomllib.loads((root / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    answer = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True)
    packages = json.loads(answer.stdout)["packages"]

    problems = 0
    for package in packages:
        problem = problem_of(package, allowed)
        if problem:
            problems += 1
            print(f"{package['name']} {package['version']}: {problem}", file=sys.stderr)
    print(f"licences: {len(packages)} packages, {problems} not allowed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
