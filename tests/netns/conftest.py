"""Labs for integration tests; a test that fails prints what happened, the wire and the logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from havip.netlab import Lab

MakeLab = Callable[..., Lab]

_open_labs: list[Lab] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.netns)


@contextmanager
def _making_labs() -> Iterator[MakeLab]:
    with ExitStack() as stack:

        def make(**options: Any) -> Lab:
            lab = stack.enter_context(Lab(**options))
            _open_labs.append(lab)
            stack.callback(_open_labs.remove, lab)
            return lab

        yield make


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """`make_lab(hosts=3, clients=1, second_link=False)` builds a lab that ends with the test."""
    with _making_labs() as make:
        yield make


@pytest.fixture(scope="module")
def make_shared_lab() -> Iterator[MakeLab]:
    """As `make_lab`, for tests of a module that leave nothing behind for one another."""
    with _making_labs() as make:
        yield make


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Three hosts and a client; nothing runs on them yet."""
    return make_lab()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport | None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.failed:
        for lab in _open_labs:
            report.sections.append((f"{lab.prefix}: who had which address", lab.watch.story()))
            wire = lab.capture.text() if hasattr(lab, "capture") else "was not recorded"
            report.sections.append((f"{lab.prefix}: the wire", wire))
            report.sections.extend(
                (f"{lab.prefix}: {name}", "\n".join(text.splitlines()[-200:]))
                for name, text in lab.logs().items()
                if text
            )
    return report  # type: ignore[return-value]
