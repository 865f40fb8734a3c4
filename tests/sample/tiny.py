"""Decoders for the tests of sample/: one whose logits are written down, and a real one, tiny, of random weights."""

import torch
from torch import Tensor, nn

from cutaway.ground.config import DecoderConfig, RopeConfig
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens

VOCAB = 11


def config(n_positions: int = 64, rope: bool = True, vocab_size: int = VOCAB) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=vocab_size,
        n_layers=2,
        d_model=16,
        n_heads=2,
        n_kv_heads=1,
        d_head=8,
        d_mlp=24,
        n_positions=n_positions,
        d_embed=16,
        norm="rms",
        norm_eps=1e-5,
        activation="silu",
        rope=RopeConfig(10000.0, 8) if rope else None,
        gated=True,
    )


def real(rope: bool = True, n_positions: int = 64) -> Decoder:
    decoder = Decoder(config(n_positions, rope))
    generator = torch.Generator().manual_seed(5)
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return decoder.eval()


class Scripted(Decoder):
    """Logits of the next token are a row of a table, chosen by the last token alone: a bigram model."""

    def __init__(self, table_VV: Tensor, n_positions: int = 64) -> None:
        nn.Module.__init__(self)
        self.config = config(n_positions, vocab_size=len(table_VV))
        self.table = table_VV
        self.calls: list[tuple[list[int], Tensor | None, Tensor]] = []

    def forward(self, tokens, cache=None, tap=None, last=None):
        self.calls.append((list(tokens.ids.shape), last, tokens.positions))
        if cache is not None:
            cache.admit(tokens)
        logits_BTV = self.table[tokens.ids]
        if last is None:
            return logits_BTV
        return logits_BTV[torch.arange(len(last)), last][:, None]


def successor(vocab: int = VOCAB, n_positions: int = 64) -> Scripted:
    """After token i always comes token i + 1, and after the last one token 0."""
    return Scripted(torch.eye(vocab).roll(1, 1) * 10, n_positions)


def batch(*rows: list[int], side: str = "right", pad: int = 0) -> Tokens:
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = width - len(row)
        left, right = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad] * left + row + [pad] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return Tokens.from_ids(ids, torch.tensor(mask))
