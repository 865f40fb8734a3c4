"""What one pass shows: the logit lens, direct logit attribution, what heads attend to, gradients, one number explained.

Methods of LM. It does not know how a question is answered, nor how a finding is drawn.
"""

from pathlib import Path
from typing import Any, SupportsIndex

from torch import inference_mode

from cutaway.analysis.attribution import attributions
from cutaway.analysis.gradients import gradient_times_input
from cutaway.analysis.heads import heads, repeated_tokens
from cutaway.analysis.logit_lens import lens, load_probes
from cutaway.analysis.many import average, batches, require_same_length
from cutaway.edit.positions import columns
from cutaway.edit.recipe import Edits, edits_of
from cutaway.explain.why import why
from cutaway.ground.errors import BadArgument
from cutaway.ground.whole import require_whole
from cutaway.questions.answers import Answer, answers_of, likeliest, measure
from cutaway.questions.base import Asked, Texts, path_of, position_of, top_of
from cutaway.show.attribution import AttributionFinding
from cutaway.show.gradients import GradientsFinding
from cutaway.show.heads import HeadsFinding
from cutaway.show.lens import LensFinding, lens_finding
from cutaway.show.verdicts import WhyFinding
from cutaway.trace.trace import Trace


class Reading(Asked):
    """Questions that a pass answers, with nothing changed in it.

    texts: a string, a list of strings, ids (a tensor [T] or [B, T]) or Tokens. Of several, values are means over the
    texts, and the finding has their standard deviation. answer, against: a word or an id, one for all texts or a list
    with one for each.
    """

    def lens(
        self,
        texts: Texts,
        *,
        position: int = -1,
        top: int = 3,
        answer: Answer | None = None,
        against: Answer | None = None,
        probes: str | Path | None = None,
        add_special_tokens: bool = True,
    ) -> LensFinding:
        """What the model would say next if it stopped after each block: the `top` likeliest tokens at one position.

        position: of each text, from 0, or from -1 backwards. answer: also its logit after each block, minus that of
        `against` where it is given. probes: the file of a tuned lens. Source: analysis/logit_lens.py. Raises
        BadArgument for a position that a text has not, or an answer that is no token.
        """
        tokens, at, top = self.tokens(texts, add_special_tokens), position_of(position), top_of(top)
        if answer is None and against is not None:
            raise BadArgument(f"against={against!r} without an answer", "both, or neither", "pass answer= too")
        tuned = None if probes is None else load_probes(path_of("probes", probes), self.decoder.config)
        wanted = None if answer is None else answers_of(self, len(tokens.ids), answer, against)
        read = tokens.positions.gather(1, columns(tokens, at))[:, 0].tolist()
        found = lens(self.decoder, tokens, position=at, top=top, probes=tuned, metric=wanted and wanted.metric())
        said: dict[str, Any] = {} if wanted is None else {"measure": wanted.measure, "notes": wanted.notes}
        return lens_finding(self.name, found, self._word, positions=tuple(read), **said)

    def attribute(
        self,
        texts: Texts,
        answer: Answer | None = None,
        against: Answer | None = None,
        *,
        by: str = "block",
        position: int = -1,
        top: int = 20,
        edits: Edits = (),
        add_special_tokens: bool = True,
    ) -> AttributionFinding:
        """Which parts of the model wrote the answer's logit, minus that of `against`: parts that sum to it, in logits.

        answer: None for the likeliest next token of each text. by: "block", "head", "neuron", or "token": the position
        that attention read, of texts of one length. position: where the logit is. top: parts that are drawn. Source:
        analysis/attribution.py. Raises BadArgument for a model that norms its residual stream after every sum.
        """
        tokens, at, top = self.tokens(texts, add_special_tokens), position_of(position), top_of(top)
        count = len(tokens.ids)
        wanted = None if answer is None else answers_of(self, count, answer, against)
        notes = () if wanted is None else wanted.notes
        others = None if wanted is None else wanted.against
        if wanted is None and against is not None:
            versus = answers_of(self, count, against, other="answer")
            others, notes = versus.ids, tuple(note.replace("answer:", "against:", 1) for note in versus.notes)
        found = attributions(
            self.decoder, tokens, wanted and wanted.ids, others, by, at, edits_of(edits, self.decoder.config)
        )
        words = tuple(self._word(id) for id in found.answers)
        said = measure(self, found.answers, found.against)
        return AttributionFinding(found, by, top, words, said, model=self.name, notes=notes)

    def heads(
        self,
        texts: Texts | None = None,
        *,
        top: int = 5,
        length: int = 50,
        seed: int = 0,
        add_special_tokens: bool = True,
    ) -> HeadsFinding:
        """What each head attends to: previous token, same token, first, itself, entropy, and induction.

        texts: None for four texts of `length` random tokens (by `seed`), each repeated once, without BOS; induction
        needs texts whose second half is their first. top: heads in the table. Source: analysis/heads.py.
        """
        top = top_of(top)
        if texts is None:
            length = require_whole("length", length, 2, "pass for example length=50")
            seed = require_whole("seed", seed, 0, "pass for example seed=0")
            tokens = repeated_tokens(self.decoder.config, length, seed=seed).to(self.decoder.embed.token.weight.device)
            on = f"{length} random tokens, repeated once"
        else:
            tokens = self.tokens(texts, add_special_tokens)
            on = "the text" if len(tokens.ids) == 1 else f"{len(tokens.ids)} texts"
        return HeadsFinding(heads(self.decoder, tokens), top, on, model=self.name)

    def gradients(
        self,
        texts: Texts,
        answer: Answer | None = None,
        against: Answer | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> GradientsFinding:
        """Gradient x input, in logits: how the answer's logit changes, to first order, as each token's embedding grows.

        answer: None for the likeliest next token of each text; against: the token whose logit is subtracted. 8-bit
        layers use the straight-through estimator. Source: analysis/gradients.py. Raises BadText for texts of different
        lengths, which have no position in common.
        """
        tokens = self.tokens(texts, add_special_tokens)
        require_same_length(tokens, "to average each position")
        chosen = likeliest(self, tokens) if answer is None else answer
        wanted = answers_of(self, len(tokens.ids), chosen, against)
        rows, values = iter(zip(wanted.ids, wanted.against or wanted.ids, strict=True)), []
        for batch in batches(tokens):
            ids, others = zip(*[next(rows) for _ in range(len(batch.ids))], strict=True)
            own = answers_of(self, len(ids), ids, None if wanted.against is None else others)
            with inference_mode(False):
                values += list(gradient_times_input(self.decoder, batch, own.metric()).cpu())
        real = [row[mask] for row, mask in zip(values, tokens.mask.bool().cpu(), strict=True)]
        pieces = self._shown(tokens) if not tokens.padded else ("",) * len(real[0])
        return GradientsFinding(average(real), pieces, wanted.measure, model=self.name, notes=wanted.notes)

    def why(self, trace: Trace, site: str, *index: SupportsIndex) -> WhyFinding:
        """What made one number of a trace, an index on each axis of its site: see explain/why.py."""
        if not isinstance(trace, Trace):
            raise BadArgument(f"a {type(trace).__name__}", "a trace", "pass what lm.trace(...) gave")
        if not isinstance(site, str):
            raise BadArgument(f"the site {site!r}", "the name of a site", 'pass for example "blocks.0.attn.q"')
        found = why(trace, self.decoder, site, *index)
        return WhyFinding(**vars(found), model=self.name)
