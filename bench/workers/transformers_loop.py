"""Greedy decoding with a model of transformers: its cache, one token at a time, only the last place unembedded."""

import torch
from serve import Decode, Each


def greedy(model: torch.nn.Module) -> Decode:
    """The loop without what `generate` adds around it, so that the engine is measured and not its options."""

    def decode(prompt: list[int], new: int, each: Each) -> None:
        ids, cache = torch.tensor([prompt]), None
        with torch.inference_mode():
            for _ in range(new):
                out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids, cache = out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values
                each(int(ids))

    return decode


def nbytes(model: torch.nn.Module) -> int:
    """Bytes of the parameters, tied ones once, less those of tables of which a token reads one row."""
    head = model.get_output_embeddings().weight
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    rows_only = {t.data_ptr() for t in tables} - {head.data_ptr()}
    parameters = {p.data_ptr(): p.nbytes for p in model.parameters()}
    return sum(size for place, size in parameters.items() if place not in rows_only)
