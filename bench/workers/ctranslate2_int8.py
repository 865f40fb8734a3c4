"""CTranslate2 in 8 bits, with the compute type that is fastest on this CPU."""

from pathlib import Path

import ctranslate2
from serve import Decode, Each, arguments, fastest, serve, versions

path, threads, _ = arguments()


def loaded(compute_type: str) -> Decode:
    generator = ctranslate2.Generator(path, device="cpu", compute_type=compute_type, intra_threads=threads)

    def decode(prompt: list[int], new: int, each: Each) -> None:
        # the vocabulary of the conversion names each id; the end token is one that cannot come
        generator.generate_batch(
            [[f"<{token}>" for token in prompt]],
            max_length=new,
            min_length=new,
            end_token=[],
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=lambda step: each(step.token_id),
        )

    return decode


types = sorted(t for t in ctranslate2.get_supported_compute_types("cpu") if t.startswith("int8"))
name, decode = fastest({kind: lambda kind=kind: loaded(kind) for kind in types})
weights = (Path(path) / "model.bin").stat().st_size
serve(decode, settings=name, nbytes=weights, runs_on=versions("ctranslate2"))
