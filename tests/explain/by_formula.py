"""The whole pass by the formulas of ground/sites.py alone: what a value changed by hand makes of all that follow."""

from torch import Tensor

from cutaway.explain.formula import recompute
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens

FAMILIES = ("opt", "opt-350m-like", "gpt2", "llama-gqa")
TOKENS = Tokens.from_ids([[3, 5, 7, 2, 9, 0], [8, 3, 3, 6, 4, 9]], [[1, 1, 1, 1, 1, 0], [1] * 6])


def after(values: dict[str, Tensor], site: str, changed: Tensor, model: Decoder, tokens: Tokens) -> dict[str, Tensor]:
    """All values, those after `site` computed anew from the changed one."""
    names = list(all_sites(model.config))
    at = names.index(site)
    made = {name: values[name] for name in names[:at]} | {site: changed}
    for name in names[at + 1 :]:
        made[name] = recompute(name, made, tokens, model)
    return made
