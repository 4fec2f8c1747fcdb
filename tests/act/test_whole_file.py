"""A file that is replaced in a directory where others may write too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from havip.act.whole_file import replace_file


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file that is not to be written."""
    file = tmp_path / "secret"
    file.write_text("theirs")
    file.chmod(0o600)
    yield file
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("theirs", 0o600)


def fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path, _secret: path.write_text("half of it"), id="of a power cut"),
        pytest.param(fifo, id="a FIFO"),
        pytest.param(Path.symlink_to, id="a symbolic link"),
        pytest.param(Path.hardlink_to, id="another name of the file"),
    ],
)
def test_what_lies_in_the_way_is_neither_opened_nor_written(
    make: Callable[[Path, Path], object], tmp_path: Path, secret: Path
) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    in_the_way = directory / ".haproxy.cfg.new"
    make(in_the_way, secret)
    # Whoever opens a FIFO for writing waits for a reader.
    reader = os.open(in_the_way, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_file(directory / "haproxy.cfg", b"ours")
    finally:
        os.close(reader)
    assert [each.name for each in directory.iterdir()] == ["haproxy.cfg"]
    assert (directory / "haproxy.cfg").read_bytes() == b"ours"
    assert (directory / "haproxy.cfg").stat().st_mode & 0o777 == 0o644
