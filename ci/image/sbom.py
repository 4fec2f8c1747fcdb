#!/usr/bin/env python3
"""sbom.py ROOT ARCHITECTURE: print what an image's root consists of, as CycloneDX 1.6 JSON.

All of it is read from the root: the Debian packages from what dpkg would know of them, the Python
packages from their own metadata. The same root gives the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]


def main() -> int:
    root, architecture = Path(sys.argv[1]), sys.argv[2]
    release = dict(
        line.replace('"', "").split("=", 1)
        for line in (root / "usr/lib/os-release").read_text().splitlines()
    )
    system = {
        "type": "operating-system",
        "bom-ref": f"{release['ID']}-{release['VERSION_ID']}",
        "name": release["ID"],
        "version": release["VERSION_ID"],
        "description": release["PRETTY_NAME"],
    }
    debian = {
        fields["Package"]: (fields, debian_component(fields, release))
        for path in sorted((root / "var/lib/dpkg/status.d").iterdir())
        if path.suffix != ".md5sums"
        for fields in [Parser().parsestr(path.read_text())]
    }
    python = {
        normal(fields["Name"]): (fields, python_component(fields))
        for path in sorted((root / "usr/lib/python3/dist-packages").glob("*.dist-info/METADATA"))
        for fields in [Parser().parsestr(path.read_text())]
    }
    fields, havip = python.pop("havip")
    havip |= {"type": "container", "bom-ref": f"havip-{architecture}"}
    # It is no package of PyPI's.
    del havip["purl"]

    dependencies = {
        havip["bom-ref"]: [
            *(python[name][1]["bom-ref"] for name in python_needs(fields) if name in python),
            debian["python3.11-minimal"][1]["bom-ref"],
            debian["tini"][1]["bom-ref"],
        ]
    }
    for fields, component in debian.values():
        dependencies[component["bom-ref"]] = [
            debian[name][1]["bom-ref"] for name in debian_needs(fields) if name in debian
        ]
    for fields, component in python.values():
        dependencies[component["bom-ref"]] = [
            python[name][1]["bom-ref"] for name in python_needs(fields) if name in python
        ]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": havip},
        "components": [
            system,
            *(component for _, component in debian.values()),
            *(component for _, component in python.values()),
        ],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(set(needs))} for ref, needs in dependencies.items()
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bom))
    print(json.dumps({"serialNumber": f"urn:uuid:{number}", **bom}, indent=1))
    return 0


def debian_component(fields: Message, release: dict[str, str]) -> Component:
    name, version = fields["Package"], fields["Version"]
    qualifiers = f"arch={fields['Architecture']}&distro={release['ID']}-{release['VERSION_ID']}"
    if "Source" in fields:
        source = fields["Source"].replace(" (", "@").rstrip(")")
        qualifiers += f"&upstream={quote(source, safe='@~')}"
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='~')}?{qualifiers}"
    return {
        "type": "library",
        "bom-ref": purl,
        "publisher": fields["Maintainer"],
        "name": name,
        "version": version,
        "purl": purl,
        "properties": [{"name": "copyright", "value": f"/usr/share/doc/{name}/copyright"}],
    }


def debian_needs(fields: Message) -> list[str]:
    needs = ",".join(fields.get(key, "") for key in ("Pre-Depends", "Depends"))
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", needs)


def python_component(fields: Message) -> Component:
    name, version = fields["Name"], fields["Version"]
    purl = f"pkg:pypi/{normal(name)}@{quote(version)}"
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "description": fields.get("Summary", ""),
        "purl": purl,
    }
    licences = [
        text.rpartition(" :: ")[2]
        for text in fields.get_all("Classifier", [])
        if text.startswith("License :: ")
    ] or fields.get_all("License", [])
    if expression := fields.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    elif licences:
        component["licenses"] = [{"license": {"name": text}} for text in licences]
    return component


def python_needs(fields: Message) -> list[str]:
    return [
        normal(match[0])
        for need in fields.get_all("Requires-Dist", [])
        if "extra ==" not in need and (match := re.match(r"[\w.-]+", need))
    ]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
