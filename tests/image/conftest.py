"""The image that `make image` built, and an engine that has it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from engine import Engine

from havip.netlab import Lab

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "image"
sys.path.insert(0, str(ROOT / "ci" / "image"))
from archive import Image  # noqa: E402 - the path is set above

NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
(FOREIGN,) = {"amd64", "arm64"} - {NATIVE}

MakeLab = Callable[..., Lab]
Measured = Callable[[str, float], None]
_measured: dict[str, list[float]] = {}


def build(architecture: str, directory: Path, *, source: Path = ROOT, **settings: str) -> Path:
    """Build the image of a source tree; returns the archive."""
    subprocess.run(
        (str(source / "ci/image/build"), architecture, str(directory)),
        env={**os.environ, **settings},
        check=True,
    )
    (archive,) = directory.glob(f"havip-*-{architecture}.tar")
    return archive


def built(architecture: str) -> Path:
    """The archive that `make e2e` built before."""
    found = sorted(IMAGES.glob(f"havip-*-{architecture}.tar"))
    assert len(found) == 1, f"{len(found)} images for {architecture} in {IMAGES}: run `make e2e`"
    return found[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs containers has them speak with each other."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session")
def archive() -> Path:
    return built(NATIVE)


@pytest.fixture(scope="session")
def image(archive: Path) -> Image:
    return Image(archive)


@pytest.fixture(scope="session")
def foreign_image() -> Image:
    """The image for the architecture that this machine does not have."""
    return Image(built(FOREIGN))


@pytest.fixture(scope="session")
def engine(archive: Path) -> Iterator[Engine]:
    with Engine() as engine:
        engine.podman("load", "--quiet", "--input", str(archive))
        yield engine


@pytest.fixture
def make_lab(engine: Engine) -> Iterator[MakeLab]:
    """`make_lab(hosts=3)` builds a lab that ends with the test, and its containers with it."""
    with ExitStack() as stack:

        def make(**options: Any) -> Lab:
            lab = stack.enter_context(Lab(**options))
            # Before the namespaces go: a container is not the lab's process.
            stack.callback(engine.remove_all)
            return lab

        yield make


@pytest.fixture(scope="session")
def measured() -> Measured:
    """`measured("until it answers", 0.5)`: shown at the end, and no test depends on it."""
    return lambda what, seconds: _measured.setdefault(what, []).append(seconds)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, values in _measured.items():
        middle, worst = statistics.median(values) * 1e3, max(values) * 1e3
        times = f"{len(values)} times" if len(values) > 1 else "once"
        terminalreporter.write_line(
            f"{what}: {middle:.1f} ms in the median, {worst:.1f} ms at worst ({times})"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport | None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.failed and engine is not None:
        for name in engine.containers():
            text = engine.podman("logs", name, check=False)
            report.sections.append((name, "\n".join(text.splitlines()[-200:])))
    return report  # type: ignore[return-value]
