"""Claim: in 8 bits cutaway reads a prompt of 128 tokens faster than the engines a user would pick instead.

Time to the first new token, by every engine at its best settings, interleaved. The large model is a stand-in:
opt-1.3b's shape with random weights.
"""

from contest import OPT, SMALL, Goal, contest

LENGTH = 128
TARGETS = {OPT: {"OpenVINO int8": 1.3}, SMALL: {"llama.cpp Q8_0": 1.5}}

if __name__ == "__main__":
    contest("prefill", "Reading a prompt of 128 tokens", Goal("first", LENGTH), TARGETS, (LENGTH, 1), __doc__)
