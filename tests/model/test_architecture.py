"""What print(lm) counts: parameters and bytes, as transformers counts them."""

from pathlib import Path

import pytest

from cutaway.model import architecture
from cutaway.weights.families import facts_of
from tests.model_types import drawn
from tests.tiny import WITH_TOKENIZER, build, tiny_lm


def test_bytes_beside_other_bytes_are_never_negative():
    assert architecture.more(3_128_960, 0) == "3.1 MB more" and architecture.more(7, 7) == "0 B more"
    assert architecture.more(25, 100) == "75 B less (75.0 %)"


@pytest.mark.parametrize("name", WITH_TOKENIZER)
def test_the_architecture_counts_what_transformers_counts(name: str, tmp_path: Path):
    lm = tiny_lm(name, tmp_path)
    assert architecture.parameters(lm.decoder) == sum(p.numel() for p in build(WITH_TOKENIZER[name]).parameters())
    assert architecture.nbytes(lm.decoder) == 4 * architecture.parameters(lm.decoder)
    assert f"{architecture.parameters(lm.decoder):,}" in str(lm)


def test_the_facts_say_which_blocks_have_positions_and_windows():
    config = drawn("cohere2", 0, num_key_value_heads=1, sliding_window=5,
                   layer_types=["sliding_attention", "full_attention", "sliding_attention"])  # fmt: skip
    line = architecture.facts(facts_of(config.to_dict(), lambda note: None)[1])
    assert "sharing 1 key · a window of 5 in 2 of 3 blocks · " in line
    assert "rotary positions in 2 of 3 blocks, 64 at most" in line
