"""`cutaway model`: what a model is made of, with shapes, parameters and bytes.

It prints what the model says of itself; it does not know any module.
"""

from cutaway.apps.cli.options import Debug, Device, Dtype, Json, Model, Offline, Quantize
from cutaway.apps.cli.running import busy, open_model, print_json


def model(
    model: Model = None,
    quantize: Quantize = "int8",
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the architecture: modules, shapes, parameters, bytes."""
    with busy("starting") as report:
        lm = open_model(model, quantize=quantize, dtype=dtype, device=device, offline=offline, report=report)
    if not as_json:
        print(lm)
        return
    from cutaway.model import architecture

    print_json(
        {
            "model": lm.name,
            "facts": architecture.facts(lm.config),
            "modules": [vars(row) for row in architecture.rows(lm.decoder)],
            "parameters": architecture.parameters(lm.decoder),
            "bytes": architecture.nbytes(lm.decoder),
        }
    )
