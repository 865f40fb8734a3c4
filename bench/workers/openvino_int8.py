"""OpenVINO with int8 weights: the stateful model that optimum exports, asked for one token at a time."""

from pathlib import Path

import numpy as np
import openvino as ov
from serve import Decode, Each, arguments, fastest, serve, versions

path, threads, _ = arguments()
core = ov.Core()
COMMON = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
CANDIDATES = {
    "default": {},
    "dynamic quantization off": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"},
    "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"},
}


def loaded(settings: dict[str, str]) -> Decode:
    request = core.compile_model(Path(path) / "openvino_model.xml", "CPU", COMMON | settings).create_infer_request()
    names = {name for port in request.model_inputs for name in port.names}

    def decode(prompt: list[int], new: int, each: Each) -> None:
        request.reset_state()
        ids, length = np.array([prompt]), 0
        for _ in range(new):
            places = np.arange(length, length + ids.shape[1])[None]
            length += ids.shape[1]
            given = {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64), "position_ids": places}
            given |= {"beam_idx": np.zeros(1, np.int32)}
            out = request.infer({k: v for k, v in given.items() if k in names}, share_inputs=True, share_outputs=True)
            ids = out["logits"][:, -1].argmax(-1)[:, None]
            each(int(ids[0, 0]))

    return decode


name, decode = fastest({name: lambda extra=extra: loaded(extra) for name, extra in CANDIDATES.items()})
weights = (Path(path) / "openvino_model.bin").stat().st_size
serve(decode, settings=f"int8 weights, {name}", nbytes=weights, runs_on=versions("openvino"))
