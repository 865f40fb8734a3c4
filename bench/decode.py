"""Claim: in 8 bits cutaway decodes faster than every engine a user would pick instead, near what the memory allows.

Time from one new token to the next, by every engine at its best settings, interleaved. The bandwidth that the shares
are of is measured in the same rounds. The large model is a stand-in: opt-1.3b's shape with random weights.
"""

from contest import OPT, SMALL, Goal, contest

TARGETS = {
    OPT: {
        "transformers + bitsandbytes int8": 2.2,
        "CTranslate2 int8": 1.9,
        "OpenVINO int8": 1.25,
        "OpenVINO int8, AVX2": 1.25,
    },
    SMALL: {"llama.cpp Q8_0": 1.3, "llama.cpp Q8_0, AVX2": 1.3, "transformers bfloat16": 4.0},
}

if __name__ == "__main__":
    contest("decode", "Decoding, one text", Goal("each", 1, share=0.85), TARGETS, (16, 48), __doc__)
