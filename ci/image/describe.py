#!/usr/bin/env python3
"""describe.py ARCHIVE [SECONDS]: save what an image says it consists of beside it, and sum it up.

SECONDS is how long the build took.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from archive import Image


def main() -> int:
    path = Path(sys.argv[1])
    image = Image(path)
    sbom = image.read("usr/share/doc/havip/sbom.cdx.json")
    path.with_suffix(".cdx.json").write_bytes(sbom)
    lines = [
        ("image", f"{image.reference} for linux/{image.config['architecture']}"),
        ("id", image.id),
        ("archive", f"{path}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"),
        (
            "contains",
            f"{len(json.loads(sbom)['components'])} packages: {path.with_suffix('.cdx.json')}",
        ),
    ]
    for name, (unpacked, compressed) in (
        *((f"layer {n}", sizes) for n, sizes in enumerate(image.layer_sizes, 1)),
        ("all", tuple(map(sum, zip(*image.layer_sizes, strict=True)))),
    ):
        lines.append((name, f"{unpacked / 1e6:.1f} MB, {compressed / 1e6:.1f} MB compressed"))
    if len(sys.argv) > 2:
        lines.append(("built in", f"{sys.argv[2]} s"))
    for name, told in lines:
        print(f"{name:<9} {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
