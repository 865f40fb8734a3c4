"""Claim: in 8 bits cutaway reads a prompt faster than llama.cpp, and at 0.65 × OpenVINO or more.

OpenVINO rounds activations to 8 bits, cutaway's default to 16, which costs two products with AVX-512 VNNI. Time to the
first new token of 128, 512 and 2,048, by every engine at its best settings, interleaved. The large model is a stand-in:
opt-1.3b's shape with random weights.
"""

from contest import OPT, SMALL, Goal, contest

LENGTHS = (128, 512, 2048 - 1)  # opt-1.3b has 2,048 positions, the new token's among them
TARGETS = {
    OPT: {"OpenVINO int8": 0.65, "OpenVINO int8, AVX2": 1.0},
    SMALL: {"llama.cpp Q8_0": 1.3, "llama.cpp Q8_0, AVX2": 1.3},
}

if __name__ == "__main__":
    for length in LENGTHS:
        name = "prefill" if length == LENGTHS[0] else f"prefill_{length}"
        contest(name, f"Reading a prompt of {length} tokens", Goal("first", length), TARGETS, (length, 1), __doc__)
