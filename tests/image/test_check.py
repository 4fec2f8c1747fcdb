"""The build's own check must find what is wrong, in the image of either architecture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archive import Image

from conftest import FOREIGN, NATIVE, ROOT
from havip.netlab import Lab


@pytest.fixture(scope="module", params=[NATIVE, FOREIGN])
def unpacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    image: Image = request.getfixturevalue("image" if request.param == NATIVE else "foreign_image")
    directory = tmp_path_factory.mktemp(request.param)
    image.extract(directory)
    return request.param, directory


@contextmanager
def moved_away(path: Path) -> Iterator[Path]:
    """Without this file or directory; gives the place where it is meanwhile."""
    with tempfile.TemporaryDirectory() as directory:
        away = Path(directory, path.name)
        shutil.move(path, away)
        try:
            yield away
        finally:
            if path.exists():
                path.unlink()
            shutil.move(away, path)


def check(architecture: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, str(ROOT / "ci/image/check.py"), str(root), architecture),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_image_passes(unpacked) -> None:
    done = check(*unpacked)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("usr/lib/*/libffi.so.8", "needs libffi.so.8, which is not there"),
        ("lib/*/libz.so.1", "needs libz.so.1, which is not there"),
        ("usr/bin/python3.11", "there is no python3.11"),
    ],
)
def test_a_missing_library_is_found(unpacked, pattern: str, told: str) -> None:
    architecture, root = unpacked
    (path,) = root.glob(pattern)
    with moved_away(path):
        done = check(architecture, root)
    assert done.returncode == 1
    assert told in done.stderr


def test_a_program_of_another_architecture_is_found(unpacked) -> None:
    architecture, root = unpacked
    (core,) = root.glob("usr/lib/python3/dist-packages/pydantic_core/*.so")
    with moved_away(core) as original:
        data = bytearray(original.read_bytes())
        # e_machine: RISC-V.
        data[18:20] = (243).to_bytes(2, "little")
        core.write_bytes(data)
        done = check(architecture, root)
    assert done.returncode == 1
    assert f"is for RISC-V, not for {architecture}" in done.stderr


def test_a_library_that_is_too_old_is_found(unpacked) -> None:
    architecture, root = unpacked
    (libc,) = root.glob("lib/*/libc.so.6")
    with moved_away(libc) as original:
        # As if it were a libc before 2.34, which did not have the threads.
        libc.write_bytes(original.read_bytes().replace(b"GLIBC_2.34\0", b"GLIBC_2.XX\0"))
        done = check(architecture, root)
    assert done.returncode == 1
    assert "needs GLIBC_2.34 of libc.so.6, which does not offer it" in done.stderr


def test_a_module_that_cannot_be_imported_is_found(image: Image, tmp_path: Path) -> None:
    """Only where the image's programs run."""
    image.extract(tmp_path)
    shutil.rmtree(tmp_path / "usr/lib/python3/dist-packages/pyroute2")
    done = check(NATIVE, tmp_path)
    assert done.returncode == 1
    assert "No module named 'pyroute2'" in done.stderr


def test_the_other_architecture_runs_under_emulation(
    foreign_image: Image, tmp_path: Path, make_lab: Callable[..., Lab]
) -> None:
    """All that this machine can show of it: every module of havip imports, and it sees its host."""
    lab = make_lab(hosts=1, clients=0)
    foreign_image.extract(tmp_path)
    emulator = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}[FOREIGN]
    packages = tmp_path / "usr/lib/python3/dist-packages"

    def run(*args: str) -> str:
        python = str(tmp_path / "usr/bin/python3.11")
        return lab.hosts[0].run((emulator, "-L", str(tmp_path), python, "-IB", *args)).stdout

    told = run("-c", "import platform; print(platform.machine())")
    assert told.strip() == {"amd64": "x86_64", "arm64": "aarch64"}[FOREIGN]
    modules = [
        ".".join(path.relative_to(packages).with_suffix("").parts)
        for path in sorted((packages / "havip").rglob("*.py"))
        # It needs scapy.
        if path.stem not in ("__init__", "__main__", "decode")
    ]
    assert len(modules) > 50
    run("-c", "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)", *modules)
    havip = str(tmp_path / "usr/bin/havip")
    assert run(havip, "--version").startswith("havip ")
    told = run(havip, "check-config", "--vip-address-cidr", lab.vip)
    assert f"from {lab.hosts[0].ipv4} on eth0" in told
