"""Claim: in 8 bits cutaway reads a prompt of 128 tokens faster than llama.cpp, and at 0.65 × OpenVINO or more.

OpenVINO rounds activations to 8 bits, cutaway's default to 16, which costs two products with AVX-512 VNNI. Time to the
first new token, by every engine at its best settings, interleaved. The large model is a stand-in: opt-1.3b's shape with
random weights.
"""

from contest import OPT, SMALL, Goal, contest

LENGTH = 128
TARGETS = {OPT: {"OpenVINO int8": 0.65}, SMALL: {"llama.cpp Q8_0": 1.3}}

if __name__ == "__main__":
    contest("prefill", "Reading a prompt of 128 tokens", Goal("first", LENGTH), TARGETS, (LENGTH, 1), __doc__)
