"""What print(lm) counts: parameters and bytes, as transformers counts them."""

from pathlib import Path

import pytest

from cutaway.model import architecture
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
