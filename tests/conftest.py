"""Shapes in signatures are checked in the tests only: jaxtyping's names, beartype's check, on the floors of values.

And the models of most tests: `lm` and `int8`, one of each family.
"""

import socket
from unittest.mock import Mock

import pytest
from jaxtyping import install_import_hook

install_import_hook(["cutaway.model", "cutaway.sample", "cutaway.text.pieces", "cutaway.trace"], "beartype.beartype")

from cutaway.lm import LM  # noqa: E402  under the hook
from tests.tiny import WITH_TOKENIZER, tiny_lm  # noqa: E402


@pytest.fixture(scope="module", params=WITH_TOKENIZER)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A tiny model in full precision."""
    return tiny_lm(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=WITH_TOKENIZER)
def int8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    """The same in 8 bits."""
    return tiny_lm(request.param, tmp_path_factory.mktemp(request.param), quantize="int8")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to a network is an error."""
    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, Mock(side_effect=AssertionError("a network call")))
