"""How was each word chosen? A short text from the default model, with the candidates of every step."""

import sys

import cutaway


def main(text: str = "I love") -> None:
    lm = cutaway.load()
    for step in lm.stream(text, max_new_tokens=5, do_sample=True, temperature=0.7, top_p=0.8, seed=0):
        print(step.table(k=5), "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
