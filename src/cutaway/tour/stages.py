"""The tour's stages as data: every number of every stage, taken from the one run that generates the text.

It does not know how a stage is drawn (draw.py), nor whether it becomes text or JSON.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cutaway.analysis.logit_lens import logit_lens, stream_sites
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.model.architecture import nbytes
from cutaway.quant.explain import explain, int8_layers, layer_input, layer_input_sites
from cutaway.sample.step import Step
from cutaway.show.architecture import made_of
from cutaway.show.codes import one_output, saving
from cutaway.show.effect import named, pieces_of
from cutaway.trace.pass_recorder import Recorder
from cutaway.trace.trace import Trace

FIRST = 24  # how many of a vector's values a stage holds: a line of a terminal


@dataclass(frozen=True)
class Stage:
    """One stage of the tour: its file in the code, its meaning in a sentence, and its numbers."""

    number: int
    title: str
    file: str
    says: str
    data: dict[str, Any]


class Tour:
    """One run of a model over one text or several, recorded as it generates.

    `stages()` are the stages 1 to 7, in order; `steps()` then generates the text, token by token. Several texts run as
    one padded batch, and the stages 3 to 8 show one of them. Raises BadArgument for a block or head that is not
    there, and the errors of lm.stream.
    """

    def __init__(self, lm: LM, texts: Sequence[str], *, block: int, head: int, **settings: Any) -> None:
        config = lm.config
        _require("block", block, config.n_layers)
        _require("head", head, config.n_heads)
        self.lm, self.block, self.head, self.row = lm, block, head, 0
        self.tokens = lm.tokens(list(texts))
        self.texts, self.last = list(texts), int(self.tokens.last[self.row])
        # the columns of the text's own tokens, without the padding
        self.real = slice(self.last + 1 - int(self.tokens.lengths[self.row]), self.last + 1)
        assert self.tokens.pieces is not None, "they are of texts"
        self.pieces, self.columns = pieces_of(self.tokens, self.row), self.tokens.pieces[self.row]
        inner = ("attn.q", "attn.k", "attn.v", "attn.rot_q", "attn_out", "mlp_out", "resid_pre", "attn.pattern")
        self.qkv = f"blocks.{block}.attn.qkv"
        recorded = {f"blocks.{block}.{name}" for name in inner} | {"embed.token", "embed.position"}
        recorded |= {layer_input_sites(config)[self.qkv]}
        recorder = Recorder((recorded | set(stream_sites(config))) & set(lm.sites))
        self._steps = lm.stream(self.tokens, tap=recorder, **settings)
        self.first: Step = next(self._steps)  # the prompt's pass, recorded, and the first choice
        values = {site: parts[0] for site, parts in recorder.parts.items()}
        recorder.rest()
        self.trace = Trace(values, self.tokens, config, "explicit", lm.name)

    def stages(self) -> Iterator[Stage]:
        """The stages 1 to 7."""
        start = (self.tokens_stage, self.model_stage, self.embedding_stage, self.positions_stage)
        yield from (stage() for stage in (*start, self.attention_stage, self.stream_stage, self.logits_stage))

    def steps(self) -> Iterator[Step]:
        """The steps of the text as it is generated, with the first one (stage 7)."""
        yield self.first
        yield from self._steps

    def tokens_stage(self) -> Stage:
        says = "The text is cut into pieces of the vocabulary; each piece has a number, its id."
        if self.tokens.padded:
            says += " Shorter texts are padded to the longest, and the mask is 0 there."
        return Stage(1, "Tokens", "text/tokenizer.py", says, {"tokens": self.tokens.as_data()})

    def model_stage(self) -> Stage:
        decoder = self.lm.decoder
        says = "The ids pass through these modules from top to bottom; all blocks are built alike."
        data = {"name": self.lm.name, **made_of(decoder), "bytes": nbytes(decoder)}
        data |= {"int8": saving(decoder, self.lm.checkpoint)}
        return Stage(2, "The model", "model/decoder.py", says, data)

    def embedding_stage(self) -> Stage:
        config = self.lm.config
        says = f"Each id picks its row of the embedding table: {config.d_embed} numbers that represent the piece."
        return Stage(3, "The embedding", "model/decoder.py: Embed", says, self._vectors("embed.token"))

    def positions_stage(self) -> Stage:
        padded = " Padding has no position." if len(self.columns) > len(self.pieces) else ""
        if self.lm.config.learned_positions:
            says = "Each position has a learned vector of its own, which is added to the piece's."
            data = {"kind": "learned"} | self._vectors("embed.position", padding=True)
            return Stage(4, "The positions", "model/decoder.py: Embed", says + padded, data)
        says = (
            "Rotary positions: each pair of numbers in q and k is rotated by an angle that grows with the position, "
            "some pairs fast, some slowly."
        )
        return Stage(4, "The positions", "model/positions.py", says + padded, {"kind": "rotary"} | self._angles())

    def attention_stage(self) -> Stage:
        site = f"blocks.{self.block}."
        group = self.head * self.lm.config.n_kv_heads // self.lm.config.n_heads
        heads = {"q": self.head, "k": group, "v": group}
        vectors = {
            name: {"shape": list(self.trace[f"{site}attn.{name}"].shape), "head": head,
                   "first": _floats(self._value(f"{site}attn.{name}")[self.last, head])}
            for name, head in heads.items()
        }  # fmt: skip
        pattern = self._value(f"{site}attn.pattern")[self.head][self.real][:, self.real]
        sizes = {name: self._size(site + name) for name in ("resid_pre", "attn_out", "mlp_out")}
        says = (
            "A head takes the dot product of each token's query q with the keys k of the tokens up to it; "
            "the closest matches contribute most of their value v. A token's row shows what it attends to; "
            "each row sums to 100 %"
        )
        says += ", the head's sink included." if self.lm.config.attn_sinks else "."
        data = {
            "block": self.block, "head": self.head, "at": self.pieces[-1], "vectors": vectors,
            "pieces": self.pieces, "pattern": pattern.tolist(), "sizes": sizes, "codes": self._codes(),
        }  # fmt: skip
        return Stage(5, f"Inside block {self.block}: head {self.head}", "model/ops.py", says, data)

    def _codes(self) -> dict[str, Any] | None:
        """The codes of the first number of the head's q at the last token; None in full precision."""
        layer = int8_layers(self.lm.decoder).get(self.qkv)
        if layer is None:
            return None
        site = layer_input_sites(self.lm.config)[self.qkv]
        explained = explain(layer, layer_input(self.lm.decoder, self.qkv, self.trace[site]))
        first_row = self.head * self.lm.config.d_head
        return {"layer": self.qkv, "site": site} | one_output(explained, (self.row, self.last), first_row)

    def stream_stage(self) -> Stage:
        sites = stream_sites(self.lm.config)
        logits_LBV = logit_lens(self.trace, self.lm.decoder, self.tokens.last)
        probs_LV = logits_LBV[:, self.row].float().softmax(-1)
        top = probs_LV.topk(3)
        rows = [
            {"site": site, "size": self._size(site), "top": named(zip(ids, probs, strict=True), self.lm.piece)}
            for site, ids, probs in zip(sites, top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        says = (
            "Every block adds to one vector, the residual stream. Unembedded after each block as if it were the last, "
            "it shows how the prediction forms (logit lens)."
        )
        data = {"at": self.pieces[-1], "rows": rows}
        return Stage(6, "The residual stream", "analysis/logit_lens.py", says, data)

    def logits_stage(self) -> Stage:
        says = (
            "The final norm, then the dot product with each token's unembedding vector: a logit each, and softmax "
            "makes them probabilities. Temperature sharpens them; top-k and top-p remove the unlikely ones."
        )
        names = [name for name, _ in self.first.stages()]
        data = self.first.as_data(10)["texts"][self.row]  # type: ignore[index]
        return Stage(7, "The logits", "sample/filters.py", says, data | {"filters": names})

    def draw_stage(self, steps: Sequence[Step]) -> Stage:
        """Stage 8, when the text is generated: every draw, and the text."""
        says = "A number u from 0 to 1 is drawn; the token whose interval holds it is appended, and the pass repeats."
        if self.first.u is None:
            says = "The token with the highest logit is appended, and the pass repeats."
        written = ["".join(step.text[row] for step in steps) for row in range(len(self.texts))]
        data = {
            "texts": [{"prompt": p, "text": t} for p, t in zip(self.texts, written, strict=True)],
            "ended": list(steps[-1].ended),
            "steps": [step.as_data(5) for step in steps],
        }
        return Stage(8, "The draw, and the text", "sample/choose.py", says, data)

    def _shape(self, site: str) -> list[int]:
        return list(self.trace[site].shape)

    def _value(self, site: str) -> Tensor:
        return self.trace[site][self.row]

    def _size(self, site: str) -> float:
        """The norm of the last token's vector."""
        return float(self._value(site)[self.last].norm())

    def _vectors(self, site: str, padding: bool = False) -> dict[str, Any]:
        """The vectors of the text's tokens, or of the padding beside them too."""
        real = range(*self.real.indices(len(self.columns)))
        rows = [
            {
                "piece": piece.visible,
                "padding": piece.padding,
                "first": _floats(vector),
                "size": float(vector.float().norm()),
            }
            for column, (piece, vector) in enumerate(zip(self.columns, self._value(site), strict=True))
            if padding or column in real
        ]
        return {"site": site, "shape": list(self.trace[site].shape), "rows": rows}

    def _angles(self) -> dict[str, Any]:
        """Degrees by which a few pairs are rotated at each position, read from the cos and sin that the pass used."""
        assert self.lm.decoder.rotary is not None, "only rotary models get here"
        rotary: Any = self.lm.decoder.rotary[0]
        cos, sin = rotary(self.tokens.positions, self.trace["embed.token"].dtype)
        degrees_TK = sin.atan2(cos).rad2deg()[self.row, :, 0] % 360
        count = degrees_TK.shape[-1]
        pairs = sorted({0, count // 8, count // 4, count // 2, count - 1})
        at = self.tokens.positions[self.row].tolist()
        rows = [
            {"piece": piece.visible, "position": None if piece.padding else position, "degrees": row[pairs].tolist()}
            for piece, position, row in zip(self.columns, at, degrees_TK, strict=True)
        ]
        period = [float(2 * 3.141592653589793 / rotary.frequency[pair]) for pair in pairs]
        return {"pairs": pairs, "of": count, "tokens_per_turn": period, "rows": rows}


def _floats(vector: Tensor) -> list[float]:
    return vector[:FIRST].float().tolist()


def _require(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise BadArgument(f"--{name} {value}", f"0 to {count - 1}", f"choose a {name} that this model has")
