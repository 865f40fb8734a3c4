"""Which word does each word look at? One head's attention of the default model, printed as a list."""

import sys

import cutaway


def main(text: str = "The sun rises in the east", block: int = 0, head: int = 0) -> None:
    lm = cutaway.load()
    tokens = lm.tokenize(text)
    pattern_TS = lm.trace(tokens, sites=f"blocks.{block}.attn.pattern")[f"blocks.{block}.attn.pattern"][0, head]
    assert tokens.pieces is not None
    pieces = [piece.visible for piece in tokens.pieces[0]]
    for row, piece in enumerate(pieces):
        best = int(pattern_TS[row].argmax())
        print(f"{piece:>12} looks most at {pieces[best]:<12} {pattern_TS[row, best]:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
