"""Each test that asks for a `seed` runs for several; HAVIP_SIM_SEEDS says for how many."""

from __future__ import annotations

import os

import pytest

SEEDS = int(os.environ.get("HAVIP_SIM_SEEDS", "6"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEEDS))
