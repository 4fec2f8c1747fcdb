#!/usr/bin/env python3
"""Write values-examples/k3s-helmchart-inline.yaml: k3s-helmchart.yaml with the chart inside.

usage: ci/generate_k3s_manifest.py [--check]

With --check nothing is written, and the exit status is 1 if the chart inside, or the rest of the
file, is out of date. What is compared is the files of the chart: how they are compressed depends on
the machine.
"""

from __future__ import annotations

import base64
import re
import sys
import textwrap
from pathlib import Path

from havip.commands.manifest import archive
from havip.commands.manifest.helmchart import encoded

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "chart"
SOURCE = ROOT / "values-examples" / "k3s-helmchart.yaml"
TARGET = ROOT / "values-examples" / "k3s-helmchart-inline.yaml"
HEAD = """\
# Made by ci/generate_k3s_manifest.py from k3s-helmchart.yaml: change that one.
#
# For k3s (and RKE2, whose directory is rke2, not k3s): the VIP of the API server, from the first
# server on, with the chart inside this file. Two files on each server:
#   /var/lib/rancher/k3s/server/manifests/havip.yaml     this one
#   /var/lib/rancher/k3s/agent/images/havip.tar          the image (docs/chart.md)
# Start each server with --tls-san 192.168.1.100.
"""
CONTENT = re.compile(r"  chartContent: \|-\n((?:    \S+\n)+)")


def unpacked(manifest: str) -> dict[str, bytes]:
    """The files of the chart inside a manifest."""
    match = CONTENT.search(manifest)
    return archive.unpacked(base64.b64decode(match[1])) if match else {}


def manifest(content: str) -> str:
    """The whole file, around the chart's content as it stands there."""
    body = SOURCE.read_text(encoding="utf-8").partition("apiVersion:")
    text = HEAD + "".join(body[1:])
    return re.sub(r"  chart: .*\n", lambda _: f"  chartContent: |-\n{content}", text)


def main() -> int:
    """Write or check; the exit status of the script."""
    there = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    inside = CONTENT.search(there)
    files = archive.files(CHART)
    is_fresh = unpacked(there) == files and inside is not None
    if is_fresh and inside is not None and manifest(inside[1]) == there:
        return 0
    if "--check" in sys.argv[1:]:
        print(
            f"{TARGET.relative_to(ROOT)} is out of date: run ci/generate_k3s_manifest.py",
            file=sys.stderr,
        )
        return 1
    content = encoded(archive.packed(files))
    TARGET.write_text(manifest(textwrap.indent(content, "    ") + "\n"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
