"""Whether HAProxy was started with the CA certificates that are there now."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from havip.sense.haproxy import CaWatch

OLD, NEW = b"the old CA\n", b"the old CA\nand a new one\n"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    for name in ("ca.pem", "copy.crt"):
        (tmp_path / name).write_bytes(OLD)
    return tmp_path


def watch(directory: Path) -> CaWatch:
    return CaWatch(str(directory / "ca.pem"), str(directory / "copy.crt"), lambda _event: None)


def test_a_file_that_is_replaced_is_told_until_haproxy_has_it(certificates: Path) -> None:
    it = watch(certificates)
    assert [it.is_outdated(), it.is_outdated()] == [False, False]
    (certificates / "ca.pem").write_bytes(NEW)
    assert [it.is_outdated(), it.is_outdated(), it.is_outdated()] == [False, True, True], (
        "not before it lies still"
    )
    (certificates / "copy.crt").write_bytes(NEW)
    assert not it.is_outdated()


def test_a_file_that_was_replaced_before_the_start(certificates: Path) -> None:
    (certificates / "ca.pem").write_bytes(NEW)
    it = watch(certificates)
    assert [it.is_outdated(), it.is_outdated()] == [False, True]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _path: None, id="none"),
        pytest.param(os.mkfifo, id="a FIFO"),
        pytest.param(Path.mkdir, id="a directory"),
    ],
)
@pytest.mark.parametrize("name", ["ca.pem", "copy.crt"])
def test_what_cannot_be_read_says_nothing(
    name: str, make: Callable[[Path], None], certificates: Path
) -> None:
    (certificates / name).unlink()
    make(certificates / name)
    it = watch(certificates)
    assert [it.is_outdated(), it.is_outdated()] == [False, False]
