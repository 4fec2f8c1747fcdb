#!/usr/bin/env python3
"""check.py ROOT ARCHITECTURE: whether everything in an image's root finds what it needs.

For any architecture: each ELF file is of that architecture, and each library and symbol version
that it needs is there. If this machine can run the image's programs, they also say so themselves:
the loader for each ELF file, Python for each module.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MACHINES = {"amd64": "Advanced Micro Devices X86-64", "arm64": "AArch64"}
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
OPTIONAL = {"havip.netlab.decode": "scapy"}
"""Modules that need what the image does not have."""


def main() -> int:
    root, architecture = Path(sys.argv[1]), sys.argv[2]
    programs = find_programs(root)
    problems = static_problems(root, architecture, programs)
    native = subprocess.run(
        ("dpkg", "--print-architecture"), capture_output=True, text=True, check=True
    ).stdout.strip()
    if architecture == native and not problems:
        problems = loader_problems(root, programs) + python_problems(root)
    for problem in problems:
        print(f"check: {problem}", file=sys.stderr)
    return 1 if problems else 0


def find_programs(root: Path) -> list[Path]:
    """Every ELF file."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF"
    ]


def static_problems(root: Path, architecture: str, programs: list[Path]) -> list[str]:
    if not any(path.name == "python3.11" for path in programs):
        return ["there is no python3.11"]
    problems = []
    libraries = {}
    triplet = TRIPLETS[architecture]
    for directory in (f"lib/{triplet}", f"usr/lib/{triplet}"):
        for path in sorted((root / directory).glob("*.so*")):
            libraries[path.name] = path.resolve()
    offered: dict[str, set[str]] = {}
    for path in programs:
        name = f"/{path.relative_to(root)}"
        machine = re.search(r"Machine:\s+(.*)", readelf("--file-header", path))
        if machine is None or machine[1] != MACHINES[architecture]:
            problems.append(f"{name} is for {machine and machine[1]}, not for {architecture}")
            continue
        for needed in re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", path)):
            if needed not in libraries:
                problems.append(f"{name} needs {needed}, which is not there")
        for library, version in needed_versions(path):
            if library in libraries and library not in offered:
                offered[library] = defined_versions(libraries[library])
            if version not in offered.get(library, {version}):
                problems.append(f"{name} needs {version} of {library}, which does not offer it")
    return problems


def readelf(option: str, path: Path) -> str:
    return subprocess.run(
        ("readelf", "--wide", option, path), capture_output=True, text=True, check=True
    ).stdout


def needed_versions(path: Path) -> list[tuple[str, str]]:
    """(library, symbol version) for each that the file needs."""
    found = []
    library = ""
    in_needs = False
    for line in readelf("--version-info", path).splitlines():
        if line.startswith("Version "):
            in_needs = line.startswith("Version needs")
        elif in_needs and (match := re.search(r"File: (\S+)", line)):
            library = match[1]
        elif in_needs and (match := re.search(r"Name: (\S+)", line)):
            found.append((library, match[1]))
    return found


def defined_versions(path: Path) -> set[str]:
    found = set()
    in_definitions = False
    for line in readelf("--version-info", path).splitlines():
        if line.startswith("Version "):
            in_definitions = line.startswith("Version definition")
        elif in_definitions and (match := re.search(r"Name: (\S+)", line)):
            found.add(match[1])
    return found


def loader_problems(root: Path, programs: list[Path]) -> list[str]:
    (loader,) = {path for path in programs if re.fullmatch(r"ld-linux.*\.so\.\d", path.name)}
    problems = []
    for path in programs:
        if path == loader:
            continue
        told = run_inside(root, f"/{loader.relative_to(root)}", "--list", inside(root, path))
        if told.returncode != 0 or "not found" in told.stdout:
            problems.append(f"{inside(root, path)}: {told.stdout}{told.stderr}")
    return problems


def python_problems(root: Path) -> list[str]:
    extensions = [
        path.name.partition(".")[0]
        for path in sorted((root / "usr/lib/python3.11/lib-dynload").glob("*.so"))
    ]
    package = root / "usr/lib/python3/dist-packages"
    modules = [
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((package / "havip").rglob("*.py"))
    ]
    wanted = [
        m for m in (*extensions, *modules) if m not in OPTIONAL and not m.endswith("__main__")
    ]
    told = run_inside(
        root,
        "/usr/bin/python3.11",
        "-IB",
        "-c",
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)",
        *wanted,
    )
    problems = [] if told.returncode == 0 else [f"an import failed: {told.stderr}"]
    told = run_inside(root, "/usr/bin/havip", "--version")
    if told.returncode != 0:
        problems.append(f"havip --version: {told.stderr}")
    return problems


def inside(root: Path, path: Path) -> str:
    return f"/{path.relative_to(root)}"


def run_inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(("chroot", root, *command), capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
