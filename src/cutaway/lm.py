"""LM, the front door: a model with its tokenizer, and what one can ask of it.

Short methods that call the floors below; it computes nothing itself, and prints nothing.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cutaway.ground.config import DecoderConfig
from cutaway.ground.errors import BadArgument, BadCheckpoint, BadText, NoTokenizer
from cutaway.ground.sites import all_sites
from cutaway.model import architecture
from cutaway.model.decoder import Decoder
from cutaway.model.tap import Tap, untapped
from cutaway.quant.int8 import check_mode
from cutaway.sample.generation import Generation, collect
from cutaway.sample.loop import generate
from cutaway.sample.settings import Sampling
from cutaway.sample.step import Step
from cutaway.text.pieces import Tokens
from cutaway.text.stream import StreamDecoder
from cutaway.text.tokenizer import Tokenizer, tokenizer_files_from_gguf
from cutaway.trace.record import Enough, Recorder
from cutaway.trace.select import Selection, select
from cutaway.trace.trace import Trace
from cutaway.weights.hub import resolve
from cutaway.weights.load import Checkpoint, load_decoder, open_checkpoint
from cutaway.weights.progress import Progress
from cutaway.weights.save import is_saved, open_saved, read_manifest, save

Texts = str | Sequence[str] | Tensor | Tokens
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load(
    model: str | Path | None = None,
    *,
    quantize: str | None = "int8",
    keep: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> "LM":
    """The model of that name, ready to run.

    model: a hub id, a local folder, a .gguf file, or None for the default model. quantize: "int8" (LLM.int8(),
    outliers per token), "int8-pooled" (outlier columns pooled over a call, as bitsandbytes), "int8-weight" (weights
    only), or None, full precision. keep: layers that stay in full precision, such as "lm_head". dtype: of the values
    between the layers; float32 on a CPU, bfloat16 on a GPU that has it, else float16. device: the first GPU if there
    is one. progress(done, total, what): called while files are fetched and read. Raises the errors of ground/errors.py.
    """
    where, mode = _device(device), None if quantize == "none" else quantize
    precision = _dtype(dtype, where)  # a wrong word is told before anything is fetched
    if mode is not None:
        check_mode(mode)
    path = resolve(None if model is None else str(model), offline=offline, progress=progress)
    name = path.name if model is None else str(model)
    if model is None and mode == "int8" and not keep:
        path = _kept_quantized(path, name, progress)
    checkpoint = open_checkpoint(path)
    if is_saved(path):
        _require_same(path, mode, keep)
        return LM(open_saved(checkpoint, dtype=precision, device=where), checkpoint, name)
    decoder = load_decoder(checkpoint, dtype=precision, device=where, quantize=mode, keep=keep, progress=progress)
    return LM(decoder, checkpoint, name)


def quantize(
    model: str | Path | None,
    out: str | Path,
    *,
    mode: str = "int8",
    keep: Sequence[str] = (),
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model in 8 bits as the folder `out`, which opens at once; arguments as in `load`.

    Raises BadArgument where `out` is there already, or the model is in 8 bits already.
    """
    path = resolve(None if model is None else str(model), offline=offline, progress=progress)
    if is_saved(path):
        raise BadArgument(f"{path}, which is in 8 bits already", "a model in full precision", "use it as it is")
    checkpoint = open_checkpoint(path)
    cpu = torch.device("cpu")
    decoder = load_decoder(checkpoint, dtype=torch.float32, device=cpu, quantize=mode, keep=keep, progress=progress)
    name = path.name if model is None else str(model)
    save(decoder, checkpoint, Path(out), tokenizer_files_from_gguf, name=name, progress=progress)
    return Path(out)


def _kept_quantized(path: Path, name: str, progress: Progress | None) -> Path:
    """The default model in 8 bits, kept beside the fetched one; made at the first use."""
    kept = path.with_name(f"{path.name}-int8")
    if is_saved(kept):
        try:
            read_manifest(kept)
            return kept
        except BadCheckpoint:  # of another version: it is ours to make anew
            shutil.rmtree(kept)
    try:
        return quantize(path, kept, progress=progress)
    except (BadArgument, OSError):  # another process made it meanwhile, or the disk is full: run without it
        return kept if is_saved(kept) else path


def _require_same(path: Path, mode: str | None, keep: Sequence[str]) -> None:
    """A saved model runs as it was saved."""
    saved = read_manifest(path)["mode"]
    if mode != saved:
        found = f"quantize={mode!r} for {path}, which was saved as {saved!r}"
        raise BadArgument(found, f"quantize={saved!r}", "load the model that it was made from")
    if keep:
        found = f"keep={list(keep)!r} for {path}, which is in 8 bits already"
        raise BadArgument(found, "no keep", "load the model that it was made from")


class LM:
    """A loaded language model: text in, every value in view, text out."""

    def __init__(self, decoder: Decoder, checkpoint: Checkpoint, name: str) -> None:
        self.decoder, self.checkpoint, self.name = decoder, checkpoint, name

    @property
    def config(self) -> DecoderConfig:
        """The facts of the model: sizes, kinds, places."""
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embed.token.weight.device

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, opened at its first use: ids run without one. Raises NoTokenizer."""
        if self.checkpoint.gguf_metadata is not None:
            return Tokenizer.from_gguf(self.checkpoint.gguf_metadata)
        return Tokenizer.from_folder(self.checkpoint.path)

    @property
    def sites(self) -> list[str]:
        """Names of all values of this model, in the order of the forward pass."""
        return list(all_sites(self.config))

    def __str__(self) -> str:
        """The architecture: modules, shapes, dtypes, parameters, bytes."""
        return f"{self.name}\n{architecture.table(self.decoder)}"

    def tokenize(self, texts: str | Sequence[str], *, padding_side: Literal["right", "left"] = "right") -> Tokens:
        """Pieces, ids, mask and positions [B, T]. Raises BadText for an empty text or one beyond the context."""
        return self.tokenizer.tokenize(texts, padding_side=padding_side, context=self.config.n_positions)

    def logits(self, texts: Texts) -> Tensor:
        """Logits [B, T, V] after every position."""
        with torch.inference_mode():
            return self.decoder(self.tokens(texts))

    def trace(self, texts: Texts, sites: Selection = "*") -> Trace:
        """The values of one pass at the chosen sites: all of them, a pattern, a list of patterns, or a predicate.

        The pass ends at the last of them; what comes after is not computed.
        """
        tokens, chosen = self.tokens(texts), select(self.config, sites)
        recorder = Recorder(chosen, last=chosen[-1] if chosen else None)
        with torch.inference_mode(), suppress(Enough):
            self.decoder(tokens, tap=recorder)
        explicit = any(name.endswith(("attn.scores", "attn.pattern")) for name in chosen)
        values = {name: recorder.parts[name][0] for name in chosen}
        return Trace(values, tokens, self.config, "explicit" if explicit else "fused", self.name)

    def stream(self, texts: Texts, *, tap: Tap = untapped, **settings: Any) -> Iterator[Step]:
        """Steps as they happen; step.text holds what each text gained, never half a character.

        settings: those of sample/settings.py, transformers' own names. tap: watches or changes the values of every
        pass. Raises the errors of sample/loop.py.
        """
        return self._stream(self.tokens(texts), Sampling(**_known(settings)), tap)

    def generate(self, texts: Texts, **settings: Any) -> Generation:
        """The text that follows, with every step that chose it. Arguments as in `stream`."""
        tokens = self.tokens(texts)
        steps = list(self._stream(tokens, Sampling(**_known(settings)), untapped))
        single = isinstance(texts, str) or (not isinstance(texts, Sequence) and len(tokens.ids) == 1)
        prompt = texts if isinstance(texts, str) else list(texts) if isinstance(texts, list | tuple) else None
        return collect(tokens, steps, self.tokenizer.decode, prompt_text=prompt, single=single)

    def tokens(self, texts: Texts) -> Tokens:
        """Whatever stands for texts, as Tokens on the model's device."""
        if isinstance(texts, Tokens):
            tokens = texts
        elif isinstance(texts, Tensor):
            tokens = Tokens.from_ids(texts)
        else:
            tokens = self.tokenize(texts)
        self._check(tokens)
        return tokens.to(self.device)

    def _check(self, tokens: Tokens) -> None:
        """Ids that have a row, and no more of them than the context."""
        lowest, highest = int(tokens.ids.min()), int(tokens.ids.max())
        if lowest < 0 or highest >= self.config.vocab_size:
            wrong = lowest if lowest < 0 else highest
            expected = f"ids from 0 to {self.config.vocab_size - 1}"
            raise BadArgument(f"the id {wrong}", expected, "tokenize the text with this model's tokenizer")
        longest = int(tokens.lengths.max())
        if longest > self.config.n_positions:
            expected = f"at most {self.config.n_positions}, the model's context"
            raise BadText(f"a text of {longest} tokens", expected, "shorten the text")

    def _stream(self, tokens: Tokens, settings: Sampling, tap: Tap) -> Iterator[Step]:
        try:
            decoders = [StreamDecoder(self.tokenizer) for _ in tokens.ids]
            decode, show = self.tokenizer.decode, self._show
        except NoTokenizer:  # ids in, ids out
            decoders, decode, show = [], None, None
        steps = generate(
            self.decoder, tokens, settings,
            eos_ids=self.eos_ids, pad_id=self._pad_id, decode=decode, show=show, tap=tap,
        )  # fmt: skip
        return (replace(step, text=_new_text(step, decoders)) for step in steps)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text: the checkpoint's, else the tokenizer's."""
        if self.checkpoint.eos_ids:
            return self.checkpoint.eos_ids
        try:
            eos = self.tokenizer.eos_id
        except NoTokenizer:
            eos = None
        return frozenset(() if eos is None else (eos,))

    @property
    def _pad_id(self) -> int:
        return min(self.eos_ids, default=0)

    def _show(self, token: int) -> str:
        return self.tokenizer.pieces([token])[0].text


def _new_text(step: Step, decoders: list[StreamDecoder]) -> tuple[str, ...]:
    """What each text gained at this step: nothing where it was over, the held-back rest where it ends."""
    gained = []
    for decoder, token, over, ended in zip(
        decoders, step.ids.tolist(), step.was_over.tolist(), step.ended, strict=False
    ):
        text = "" if over else decoder.push(token)
        gained.append(text + decoder.flush() if ended and not over else text)
    return tuple(gained)


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, if all of them have a known name."""
    names = list(Sampling.__dataclass_fields__)
    for name in settings:
        if name not in names:
            raise BadArgument(f"the argument {name}={settings[name]!r}", f"one of {', '.join(names)}", "leave it out")
    return settings


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
        raise BadArgument(f"device={str(device)!r}, which cannot be used here", "cpu, or a GPU that torch sees",
                          "pass device='cpu'") from error  # fmt: skip
    return where


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype not in DTYPES:
        raise BadArgument(f"dtype={str(dtype)!r}", f"one of {', '.join(DTYPES)}", "pass one of those")
    return DTYPES[str(dtype)]
