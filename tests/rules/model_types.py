"""The README's table of model types, made from the families' files and what their tests draw: each model type, what is
proved of it, and whether a new token in 8 bits is computed natively."""

from pathlib import Path

from cutaway.quant.natively import not_computed
from cutaway.weights.families import family_named, supported
from tests.model_types import OPTIONS, SEEDS, drawn
from tests.tiny import facts

README = Path(__file__).parents[2] / "README.md"
PROVED = f"""\
## Model types

{{count}} `model_type`s of a config.json run, and GGUFs of those that llama.cpp writes. The table is made from their
files and tests (`python -m tests.rules.model_types`). Of each type the tests prove, against transformers' float32:

- {len(SEEDS)} configurations drawn at random from its own options: logits and the residual stream after every block
  within 1e-4 (or 1e-4 of their standard deviation where that is below 1), for texts padded on the left and on the
  right, in one pass and token by token through the cache;
- the same ones pass every claim of `cutaway check`, in 8 bits too, where they run, save and reopen with the same bits.
  In full precision the greedy text is transformers' (`phi3` past longrope's border apart, as a note on loading says);
- in 8 bits the engine gives the bits of the readable blocks for every new token: *native*, one call computes as many
  blocks as it can; *called*, each is called as `model/decoder.py` has it: the same numbers, slower. It is said of the
  facts of the type's first configuration; the width of a gated MLP must be a multiple of 16, too.

An option that transformers reads is computed, or refused by name and value.

| `model_type` | models | options drawn | new tokens in 8 bits |
| --- | --- | --- | --- |
"""
BEGIN, END = "<!-- model types: generated -->\n", "<!-- end -->\n"


def section() -> str:
    """What the README says between BEGIN and END."""
    types = supported()
    return PROVED.replace("{count}", str(len(types))) + "\n".join(map(_row, types)) + "\n"


def written(readme: str) -> str:
    """A README with the section as it is now."""
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + section() + END + rest.partition(END)[2]


def _row(model_type: str) -> str:
    says = " ".join((family_named(model_type).__doc__ or "").split())
    options = sum(len(values) > 1 for values in OPTIONS[model_type].values())
    how = "called" if not_computed(facts(drawn(model_type, 0))) else "native"
    models = says.partition(": its config")[0].partition(", all sizes")[0].partition(". Its config")[0]
    return f"| `{model_type}` | {models} | {options} | {how} |"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
