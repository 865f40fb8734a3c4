"""The page's asks of families whose blocks differ: norms without a weight, norms after, ALiBi, experts."""

from pathlib import Path

import pytest

from cutaway.apps.server.asks import precision, writing  # noqa: F401  they fill the table
from cutaway.lm import load
from tests.apps.server.test_reading import TEXT, Page
from tests.model_types import drawn
from tests.tiny import TEXT as WITH_TEXT
from tests.tiny import build, save_tokenizer


@pytest.mark.parametrize("quantize", ["int8", None])
@pytest.mark.parametrize("family", ["olmo", "olmo2", "bloom", "mixtral"])
def test_a_family_writes_forks_and_is_compared(tmp_path: Path, family: str, quantize: str | None) -> None:
    build(drawn(family, 0, **WITH_TEXT), scale=0.15).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    lm = load(tmp_path, quantize=quantize, dtype="float32", device="cpu")
    page = Page(lm)
    assert page("generate", text=TEXT, max_new_tokens=4).data["text"] == lm.generate(TEXT, max_new_tokens=4).text
    out = lm.fork(lm.generate(TEXT, max_new_tokens=4), 0, 40)
    assert page("fork", generation="g1", step=0, token=40).data["text"] == out.text
    page("run", text=TEXT)
    assert [row["site"] for row in page("compare", run="r1").data["sites"]] == lm.sites
    assert page("compare_values", run="r1", site="logits").arrays["eight"].shape[-1] == lm.config.vocab_size
    assert page("damage", run="r1").data["layers"]
