"""A folder of a Llama-like model in Hugging Face's format → a Q8_0 GGUF, by the gguf package.

Every matrix becomes Q8_0 and every vector float32. The file has no tokenizer: the benches give and take ids.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from safetensors.numpy import load_file


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix in llama.cpp's order: the two halves of a turned pair stand side by side."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, 2, width // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def add_facts(writer: gguf.GGUFWriter, config: dict) -> None:
    """What llama.cpp asks of a model's shape."""
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def main(source: Path, out: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(out, "llama")
    add_facts(writer, config)
    for name, values in load_file(source / "model.safetensors").items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        their_name = names.get_name(name, try_suffixes=(".weight",))
        module = name.split(".")[-2]
        wide = interleaved(values.astype(np.float32), heads[module]) if module in heads else values.astype(np.float32)
        if wide.ndim == 1:
            writer.add_tensor(their_name, wide)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(their_name, quantize(wide, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
