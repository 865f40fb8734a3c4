"""docs/model-types.md, made from the families' files and what their tests draw: each model type, what is proved of it,
and whether a new token in 8 bits is computed natively."""

from cutaway.quant.natively import not_computed
from cutaway.weights.families import family_named, supported
from tests.model_types import OPTIONS, SEEDS, drawn
from tests.tiny import facts

PAGE = f"""# Model types

Made from `weights/families` and the tests' registry (`tests/model_types.py`); a test keeps it true. Of each type, the
tests prove:

- {len(SEEDS)} configurations drawn at random from its own options: logits and the residual stream after every block
  within 1e-4 of transformers' eager float32, or 1e-4 of their standard deviation where that is below 1, for texts
  padded on the left and on the right, in one pass and token by token through the cache;
- two of them in 8 bits: they run, save and reopen with the same bits, and pass every claim of `cutaway check`, as they
  do in full precision; in full precision the greedy text is transformers'. Where it would cross longrope's border
  (`phi3`'s original_max_position_embeddings), transformers turns by the short factors up to the border and then reads
  the text anew by the long ones; here the long ones hold from the first token, as a note on loading says;
- in 8 bits the engine gives the bits of the readable blocks for every new token, with and without padding. Where the
  last column says *native*, one native call computes as many blocks as it can; where it says *called*, each block is
  called as `model/decoder.py` has it: the same numbers, slower. It is said of the type's first configuration; another
  option can make a model of a native type called.

What a type's options hold that transformers reads is computed, or refused by name and value.

| `model_type` | models | options drawn | new tokens in 8 bits |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    return PAGE + "\n".join(map(_row, supported())) + "\n"


def _row(model_type: str) -> str:
    says = " ".join((family_named(model_type).__doc__ or "").split())
    options = sum(len(values) > 1 for values in OPTIONS[model_type].values())
    how = "called" if not_computed(facts(drawn(model_type, 0))) else "native"
    models = says.partition(": its config")[0].partition(", all sizes")[0].partition(". Its config")[0]
    return f"| `{model_type}` | {models} | {options} | {how} |"


if __name__ == "__main__":
    print(page(), end="")
