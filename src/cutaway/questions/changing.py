"""What other values do: the effect of edits, activation patching, ablation, steering.

Methods of LM. It does not know how a question is answered, nor how a finding is drawn.
"""

from collections.abc import Sequence
from typing import Any

from cutaway.analysis.ablation import ablate
from cutaway.analysis.effect import effect
from cutaway.analysis.many import alone
from cutaway.analysis.patching import SITES, averaged, sweep
from cutaway.analysis.steering import steer
from cutaway.edit.recipe import Edits, edits_of
from cutaway.ground.errors import BadArgument, BadText
from cutaway.ground.sites import block_exit
from cutaway.ground.whole import number, whole
from cutaway.questions.answers import Answer, answers_of, likeliest
from cutaway.questions.base import Asked, Texts, top_of
from cutaway.show.ablation import AblationFinding
from cutaway.show.effect import EffectFinding, effect_finding
from cutaway.show.patching import PatchFinding
from cutaway.show.steering import SteeringFinding
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run


class Changing(Asked):
    """Questions that passes with other values in them answer. texts, answer, against: as in questions/reading.py."""

    def effect(self, texts: Texts, edits: Edits, *, add_special_tokens: bool = True) -> EffectFinding:
        """What the edits do to the next token after each text: the likeliest before and after, and KL in nats.

        edits: an Edit, a list of them, or a recipe's file. Raises NotFinite where they make the logits NaN.
        """
        tokens = self.tokens(texts, add_special_tokens)
        before, after = (
            run(self.decoder, tokens, "logits", edits=each, positions=-1)["logits"][:, 0]
            for each in ([], edits_of(edits, self.decoder.config))
        )
        return effect_finding(self.name, effect(before, after), self._word)

    def patch(
        self,
        clean: Texts,
        corrupt: Texts,
        answer: Answer,
        against: Answer | None = None,
        *,
        by: Sequence[str] = ("block", "head"),
        site: str | None = None,
        block: int | None = None,
        direction: str = "denoise",
        add_special_tokens: bool = True,
    ) -> PatchFinding:
        """Which values carry the answer: each value of one text patched into the pass over the other, by itself.

        clean, corrupt: as many texts of both, each pair of as many tokens. answer: the token after the clean text;
        against: the one after the corrupt text, whose logit is subtracted. by: the axes of the result: ("block",
        "head"), all positions at once; ("block", "position"); or ("head", "position") of one `block`. site: what is
        patched in a block: attn.z, or attn.pattern, by head; by position resid_pre, or resid_mid, resid_post, attn_out,
        mlp_out, attn.z, mlp.post. direction: "denoise", clean values into the corrupt pass, or "noise", the other way.
        Scores: 0 is the measure of the text that was run, 1 that of the other. Source: analysis/patching.py. Raises
        BadText for texts of different lengths, BadArgument where the measure is the same on both.
        """
        pairs = self._pairs(clean, corrupt, add_special_tokens)
        wanted = answers_of(self, len(pairs), answer, against)
        lengths = sorted({one.ids.shape[1] for one, _ in pairs})
        axes: Any = tuple(by) if isinstance(by, list | tuple) else (by,)
        by_position = "position" in axes
        if by_position and len(lengths) > 1:
            found = f"pairs of {lengths[0]} to {lengths[-1]} tokens by position"
            do = 'pass by=("block", "head"), or other texts'
            raise BadText(found, "pairs of one length, to average each position", do)
        at = block if block is None else _block(block)
        given: Any = {"by": axes, "site": site, "direction": direction, "block": at}
        sweeps = [sweep(self.decoder, *pair, of, **given) for pair, of in zip(pairs, wanted.metrics(), strict=True)]
        ids = [one.ids for one, _ in pairs]
        pieces = self._shown(Tokens.from_ids([row[0].tolist() for row in ids])) if by_position else ()
        site = site or SITES[axes][0]
        return PatchFinding(site, averaged(sweeps), pieces, wanted.measure, model=self.name, notes=wanted.notes)

    def _pairs(self, clean: Texts, corrupt: Texts, special: bool) -> list[tuple[Tokens, Tokens]]:
        """Each clean text with its corrupt one. Raises BadArgument or BadText where they are no pairs."""
        ones, others = (alone(self.tokens(texts, special)) for texts in (clean, corrupt))
        if len(ones) != len(others):
            found = f"{len(ones)} clean and {len(others)} corrupt texts"
            raise BadArgument(found, "as many of both", "give each text its pair")
        pairs = list(zip(ones, others, strict=True))
        for row, (one, other) in enumerate(pairs):
            counts = one.ids.shape[1], other.ids.shape[1]
            if counts[0] != counts[1]:
                which = f" (pair {row + 1} of {len(pairs)})" if len(pairs) > 1 else ""
                found = f"texts of {counts[0]} and {counts[1]} tokens{which}"
                raise BadText(found, "two texts of the same length", "change a word so that both are as long")
        return pairs

    def ablate(
        self,
        texts: Texts,
        answer: Answer | None = None,
        against: Answer | None = None,
        *,
        reference: Texts | None = None,
        top: int = 20,
        add_special_tokens: bool = True,
    ) -> AblationFinding:
        """What the answer's logit, minus that of `against`, changes by without each head: [block, head], in logits.

        answer: None for the likeliest next token of each text. reference: texts whose mean z replaces a head's (mean
        ablation); None: zero. top: heads in the table. Source: analysis/ablation.py.
        """
        tokens, top = self.tokens(texts, add_special_tokens), top_of(top)
        chosen = likeliest(self, tokens) if answer is None else answer
        wanted = answers_of(self, len(tokens.ids), chosen, against)
        means, by = None, "its z set to zero"
        if reference is not None:
            means = run(self.decoder, self.tokens(reference, add_special_tokens), "blocks.*.attn.z")
            by = f"its z set to its mean over {len(means.tokens.ids)} reference text{'s' * (len(means.tokens.ids) > 1)}"
        found = ablate(self.decoder, tokens, wanted.metrics(), means)
        return AblationFinding(found, by, top, wanted.measure, model=self.name, notes=wanted.notes)

    def steer(
        self,
        texts: Texts,
        *,
        toward: Texts,
        away: Texts,
        site: str | None = None,
        strength: float = 1.0,
        max_new_tokens: int = 40,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> SteeringFinding:
        """What the model writes with a direction added at every position: toward some texts, away from as many others.

        The direction is the mean difference of the site at the pairs' last tokens. site: one vector a position; None
        for the residual stream after the middle block. strength: how many times it is added. The others: as in
        `generate`, the same for the text without and with it. The finding's `edit` is for `edits=`. Source:
        analysis/steering.py. Raises BadArgument for unequal numbers of texts or another kind of site.
        """
        tokens, config = self.tokens(texts), self.decoder.config
        times = number(strength)
        if not abs(times) < float("inf"):
            raise BadArgument(f"strength={strength!r}", "a finite number", "pass for example strength=1.0")
        where = block_exit(config, config.n_layers // 2) if site is None else site
        if not isinstance(where, str):
            raise BadArgument(f"site={site!r}", "the name of a site", "steer blocks.*.resid_post")
        edit = steer(self.decoder, self.tokens(toward), self.tokens(away), where, times)
        given: Any = texts if isinstance(texts, str | list | tuple) else tokens
        settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "temperature": temperature}
        settings |= {"top_p": top_p, "seed": seed}
        written = self.generate(given, **settings), self.generate(given, edits=edit, **settings)
        new: Any = tuple((each.text,) if isinstance(each.text, str) else tuple(each.text) for each in written)
        prompts = self._prompts(given, tokens)
        without, steered = (tuple(p + n for p, n in zip(prompts, of, strict=True)) for of in new)
        title = f"{times:g} × the direction at {where}"
        return SteeringFinding(edit, without, steered, new, self.effect(tokens, edit), title, model=self.name)

    def _prompts(self, given: Any, tokens: Tokens) -> list[str]:
        if not isinstance(given, Tokens):
            return [given] if isinstance(given, str) else list(given)
        return ["".join(map(self.token_text, row.ids[0].tolist())) for row in alone(tokens)]


def _block(given: Any) -> int:
    found = whole(given)
    if found is None:
        raise BadArgument(f"block={given!r}", "a whole number", "pass for example block=0")
    return found
