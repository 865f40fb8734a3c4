"""A folder in Hugging Face's format → OpenVINO's stateful model with int8 weights, only the last place unembedded.

Runs in the venv of OpenVINO. The last step is what OpenVINO GenAI does to every model it runs.
"""

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def unembed_the_last_only(model: ov.Model) -> None:
    """Cut what enters the product that makes the logits down to its last position."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    start, stop, step, axis = (ops.constant(np.array([n], np.int64)) for n in (-1, np.iinfo(np.int64).max, 1, 1))
    node.input(0).replace_source_output(ops.slice(node.input_value(0), start, stop, step, axis).output(0))
    model.validate_nodes_and_infer_types()


source, out = (Path(arg) for arg in sys.argv[1:])
eight_bits = OVWeightQuantizationConfig(bits=8, sym=False)
model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, quantization_config=eight_bits)
unembed_the_last_only(model.model)
out.mkdir(parents=True, exist_ok=True)
ov.save_model(model.model, out / "openvino_model.xml", compress_to_fp16=False)
