"""Buffers that gain a column with every pass: they hold, bit for bit, what passed."""

import pytest
import torch

from cutaway.ground.errors import BadArgument
from cutaway.trace.generation_recorder import GenerationRecorder
from cutaway.trace.plan import Row

ROWS = (
    Row("blocks.0.ln1.scale", (2, 9, 1), torch.float32),
    Row("blocks.0.attn.q", (2, 9, 3, 4), torch.bfloat16),
    Row("blocks.0.attn.scores", (2, 3, 9, 9), torch.bfloat16),
    Row("blocks.0.mlp.post", (2, 9, 5), torch.bfloat16),
)


def values(new: int, attended: int, seed: int) -> dict[str, torch.Tensor]:
    """One pass over so many columns: some values are not contiguous, one has a dtype outside the plan."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "blocks.0.ln1.scale": noise(2, new, 1),
        "blocks.0.attn.q": noise(2, new, 20).bfloat16()[..., :12].unflatten(-1, (3, 4)),
        "blocks.0.attn.scores": noise(2, 3, new, attended).bfloat16(),
        "blocks.0.mlp.post": noise(2, new, 5),
        "blocks.0.mlp_out": noise(2, new, 5),
    }


def test_columns_are_kept_in_the_order_of_the_passes():
    tap = GenerationRecorder(ROWS, 9, torch.device("cpu"))
    passes = [values(4, 4, 0), *(values(1, 5 + step, 1 + step) for step in range(3))]
    for one in passes:
        tap("embed.token", one["blocks.0.ln1.scale"])  # every pass begins so
        for name, value in one.items():
            assert tap(name, value) is value
    for name in ("blocks.0.ln1.scale", "blocks.0.attn.q", "blocks.0.mlp.post"):
        expected = torch.cat([one[name] for one in passes], 1).to(tap.values[name].dtype)
        assert torch.equal(tap.values[name][: tap.filled].transpose(0, 1), expected), name
    scores, column = tap.values["blocks.0.attn.scores"], 0
    for one in (one["blocks.0.attn.scores"] for one in passes):
        new, attended = one.shape[2:]
        assert torch.equal(scores[column : column + new, ..., :attended].permute(1, 2, 0, 3), one)
        column += new
    assert tap.filled == 7 and "blocks.0.mlp_out" not in tap.values
    assert tap.wants("blocks.0.mlp_out", "blocks.0.attn.q") and not tap.wants("blocks.0.mlp_out")


def test_more_than_was_planned_is_refused_before_anything_is_written():
    tap = GenerationRecorder(ROWS[:1], 4, torch.device("cpu"))
    tap("embed.token", torch.zeros(2, 4, 1))
    with pytest.raises(BadArgument, match="at most 4"):
        tap("embed.token", torch.zeros(2, 1, 1))


def test_what_a_pass_writes_over_later_is_kept_as_it_was():
    tap = GenerationRecorder(ROWS[:1], 4, torch.device("cpu"))
    value = torch.ones(2, 1, 1)
    for step in range(4):
        tap("embed.token", value)
        tap("blocks.0.ln1.scale", value.fill_(step))
    assert tap.values["blocks.0.ln1.scale"][:, 0, 0].tolist() == [0, 1, 2, 3]
