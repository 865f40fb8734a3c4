"""Norms whose gain is 1 + w, in bfloat16, against Gemma's own, which computes in float32."""

import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from cutaway.model.decoder import Norm
from cutaway.model.tap import untapped
from cutaway.weights.families import facts_of
from tests.model_types import drawn
from tests.tiny import noise


def test_one_plus_w_is_no_bfloat16():
    _, config = facts_of(drawn("gemma", 0).to_dict(), lambda line: None)
    ours, theirs = Norm(config, "ln_final").bfloat16(), GemmaRMSNorm(config.d_model, config.norm_eps).bfloat16()
    x = noise(50, 40, config.d_model).bfloat16()
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(0.3 * noise(config.d_model, seed=1))  # type: ignore[union-attr]
        out, expected, gain = ours(x, untapped), theirs(x), ours.gain
    assert gain is not None and gain.dtype == torch.float32 and out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=2**-7, atol=0)  # a step of bfloat16
