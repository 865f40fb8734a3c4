"""A model of random weights in a published shape → a Q8_0 GGUF, as llama.cpp's converter lays it out.

The file has no tokenizer: the benches give and take ids.
"""

import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.weights.gguf_converted import converted

SHAPES = {
    "llama": transformers.LlamaConfig(
        vocab_size=49152, hidden_size=960, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5,
        intermediate_size=2560, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "qwen2": transformers.Qwen2Config(
        vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        intermediate_size=4864, tie_word_embeddings=True,
    ),
    "qwen3": transformers.Qwen3Config(
        vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, intermediate_size=3072, tie_word_embeddings=True,
    ),
    "gemma3_text": transformers.Gemma3TextConfig(
        vocab_size=262144, hidden_size=1152, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, intermediate_size=6912, sliding_window=512,
    ),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        vocab_size=49152, hidden_size=2048, num_hidden_layers=6, num_attention_heads=32, num_key_value_heads=4,
        head_dim=128, moe_intermediate_size=768, num_experts=32, num_experts_per_tok=8, norm_topk_prob=True,
        max_position_embeddings=4096,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(
        vocab_size=50304, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
    ),
}  # fmt: skip


def main(shape: str, out: Path) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    model = transformers.AutoModelForCausalLM.from_config(SHAPES[shape]).eval()
    # without a tokenizer llama.cpp takes the vocabulary's size from a key of Llama's
    converted(model, out, "Q8_0", {"vocab_size": SHAPES[shape].vocab_size})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
