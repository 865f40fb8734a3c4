"""The model of tests/world, made once, and what it gives where nothing about torch was changed."""

from pathlib import Path

import pytest
from torch import Tensor

from tests.world.facts import WAYS, facts, folder, opened


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def usual(model: Path) -> dict[str, dict[str, Tensor]]:
    """What each way gives."""
    return {way: facts(opened(model, way)) for way in WAYS}
