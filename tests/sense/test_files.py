"""What happens to files, and what a look at them finds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from havip.netlab import Volume
from havip.sense.files import FileWatch


def watching(*paths: Path) -> FileWatch:
    """A watch that has seen that nothing moves."""
    files = FileWatch()
    for path in paths:
        files.note(str(path))
    assert files.look() == []
    assert files.look() == []
    return files


def write_over(path: Path) -> None:
    path.with_suffix(".new").write_text("new")
    path.with_suffix(".new").rename(path)


def point_elsewhere(path: Path) -> None:
    target = path.with_suffix(".target")
    target.write_text("old!")
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("new"), id="written"),
        pytest.param(write_over, id="another renamed over it, as editors do"),
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(point_elsewhere, id="replaced by a link"),
        pytest.param(lambda path: os.utime(path, ns=(1, 1)), id="touched"),
    ],
)
def test_a_change_is_told_once_it_lies_still(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    path, other = tmp_path / "config.yaml", tmp_path / "other"
    path.write_text("old!")
    other.write_text("")
    files = watching(path, other)
    change(path)
    assert files.look() == []
    assert files.look() == [str(path)]


def test_a_file_that_is_read_twice_and_changes_in_between(tmp_path: Path) -> None:
    """Two virtual routers name the same keys; the first one has the old ones."""
    path = tmp_path / "keys"
    path.write_text("old")
    files = FileWatch()
    files.note(str(path))
    path.write_text("new!")
    files.note(str(path))
    assert files.look() == []
    assert files.look() == [str(path)]


def test_a_volume_whose_link_is_swapped(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", {"keys": "1: old", "other": ""})
    files = watching(volume.path("keys"))
    volume.change({"keys": "1: new", "other": ""})
    assert files.look() == []
    assert files.look() == [str(volume.path("keys"))]


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    files = watching(path)
    with path.open("w") as writer:
        for n in range(5):
            writer.write(f"line {n}\n")
            writer.flush()
            assert files.look() == []
    assert files.look() == [str(path)]


def test_a_file_that_appears(tmp_path: Path) -> None:
    path = tmp_path / "later"
    files = watching(path)
    path.write_text("")
    assert files.look() == []
    assert files.look() == [str(path)]


def test_what_a_refused_reload_read_is_watched_too(tmp_path: Path) -> None:
    """The configuration names a key file that comes a moment later."""
    config, keys = tmp_path / "config.yaml", tmp_path / "keys"
    config.write_text("old")
    files = watching(config)
    config.write_text("new!")
    refused = FileWatch()
    for path in (config, keys):
        refused.note(str(path))
    files = files.joined(refused)
    assert files.look() == []
    assert files.look() == [], "told once"
    keys.write_text("1: key")
    assert files.look() == []
    assert files.look() == [str(keys)]
