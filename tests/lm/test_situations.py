"""Situations that people report of a model and its texts: where a text begins and ends, and which file decides."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from cutaway import Edit
from cutaway.ground.errors import BadArgument, BadCheckpoint
from cutaway.lm import LM, load
from cutaway.text.pieces import Tokens
from tests.apps.conftest import Run, cutaway  # noqa: F401
from tests.tiny import build, byte_level, gpt2, llama, opt, set_config

TALK = [{"role": "user", "content": "the cat"}]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer(folder: Path, special: tuple[str, ...] = (), **more: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a sentence, saved by transformers; <|end|> is id 0, `special` follow."""
    backend = byte_level(["the cat sat on the mat and the dog ran"] * 4, special=("<|end|>", *special))
    if "<bos>" in special:  # as Llama 3's
        backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])  # type: ignore
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", **more)
    fast.save_pretrained(folder)
    return fast


def a_gpt2(folder: Path, vocab: int, **config: Any) -> Any:
    model = build(
        gpt2(vocab_size=vocab, bos_token_id=None, eos_token_id=0, pad_token_id=None, n_positions=64, **config)
    )
    model.save_pretrained(folder)
    return model


def opened(folder: Path) -> LM:
    return load(folder, quantize=None, device="cpu")


def test_a_pad_token_whose_id_has_no_row_in_the_embedding(tmp_path: Path):
    fast = tokenizer(tmp_path)
    a_gpt2(tmp_path, len(fast))
    fast.add_special_tokens({"pad_token": "[PAD]"})  # and the model was not resized
    fast.save_pretrained(tmp_path)
    lm, texts = opened(tmp_path), ["the cat", "the cat sat on"]
    theirs = fast(texts, padding=True, return_tensors="pt").input_ids
    assert torch.equal(lm.tokenize(texts).ids, theirs) and int(theirs.max()) == len(fast) - 1
    batch, length = lm.logits(texts), lm.tokenize("the cat").ids.shape[1]
    assert (batch[0, :length] - lm.logits("the cat")[0]).abs().max() < 1e-5
    assert lm.generate(texts, max_new_tokens=4).text[0] == lm.generate("the cat", max_new_tokens=4).text
    assert lm.generate(texts, max_new_tokens=3, repetition_penalty=1.5).text


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_id_tensor_without_a_mask(side: str, tmp_path: Path):
    model = build(opt(vocab_size=64, pad_token_id=1, eos_token_id=2, bos_token_id=2))
    model.save_pretrained(tmp_path)
    lm, hf = opened(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    rows = {"left": [1, 1, 1, 2, 7, 9], "right": [2, 7, 9, 1, 1, 1]}
    ids = torch.tensor([rows[side], [2, 5, 6, 7, 8, 9]])
    with pytest.warns(UserWarning, match=r"3 pad tokens \(id 1\) at the ends of rows are taken for padding"):
        ours = lm.generate(ids, max_new_tokens=4)
    assert ours.new_ids[0] == lm.generate(torch.tensor([[2, 7, 9]]), max_new_tokens=4).new_ids[0]
    if side == "left":
        theirs = hf.generate(ids, max_new_tokens=4)[:, 6:].tolist()
        assert [list(row) for row in ours.new_ids] == [
            row[: len(o)] for row, o in zip(theirs, ours.new_ids, strict=True)
        ]
    asked = Tokens.from_ids(ids, torch.ones_like(ids))  # a mask is believed
    assert lm.trace(asked, "logits")["logits"].shape[1] == 6


def test_a_pad_token_that_is_also_the_end_is_text(tmp_path: Path):
    model = build(opt(vocab_size=64, pad_token_id=2, eos_token_id=2, bos_token_id=2))
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 6, 7]])
    with torch.no_grad():
        assert (opened(tmp_path).logits(ids) - model(ids).logits).abs().max() < 1e-4


@pytest.fixture
def with_bos(tmp_path: Path) -> Path:
    fast = tokenizer(tmp_path, ("<bos>", "<|turn|>"), bos_token="<bos>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(tmp_path)
    a_gpt2(tmp_path, len(fast))
    return tmp_path


def test_a_chat_prompt_has_one_bos(with_bos: Path):
    lm, theirs = opened(with_bos), AutoTokenizer.from_pretrained(with_bos)
    expected = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert lm.chat_prompt(TALK).ids[0].tolist() == expected and expected.count(1) == 1
    assert lm.generate(lm.chat_prompt(TALK), max_new_tokens=1).prompt.ids[0].tolist() == expected
    out = lm.chat(TALK, max_new_tokens=1)
    assert out.prompt.ids[0].tolist() == expected and out.note == ""
    assert out.prompt_text == theirs.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)
    assert lm.chat("Hi", max_new_tokens=1).prompt_text == lm.chat([{"role": "user", "content": "Hi"}]).prompt_text


def test_a_chat_s_answer_may_be_long_and_a_bare_text_is_told_of_the_template(with_bos: Path):
    lm = opened(with_bos)
    assert lm.chat("Hi").ended == ("context",) or len(lm.chat("Hi").new_ids[0]) > 50
    bare = lm.generate("the cat", max_new_tokens=1)
    assert "lm.chat(text)" in repr(bare) and "lm.chat" not in str(bare)
    assert lm.generate("the cat<|turn|>", max_new_tokens=1).note == ""  # written with the template's own tokens


@pytest.mark.parametrize("messages", ["", [], None, 5, ["Hi"], [{"content": "Hi"}], {"role": "user", "content": "Hi"}])
def test_messages_that_are_none(with_bos: Path, messages: object):
    with pytest.raises(BadArgument, match=r"expected a text, or a list of messages with role and content; pass for"):
        opened(with_bos).chat(messages)  # type: ignore[arg-type]


def test_a_prompt_that_already_begins_with_bos(with_bos: Path):
    lm, text = opened(with_bos), "<bos>the cat"
    with pytest.warns(UserWarning, match="add_special_tokens=False") as caught:
        assert lm.tokenize(text).ids[0].tolist()[:2] == [1, 1]  # as transformers
    assert caught[0].filename == __file__  # the caller's line, not one of ours
    alone = lm.tokenize(text, add_special_tokens=False)
    assert alone.ids[0].tolist()[:1] == [1] and 1 not in alone.ids[0].tolist()[1:]
    trace = lm.trace(text, "embed.token", add_special_tokens=False)
    assert torch.equal(trace.tokens.ids, alone.ids)
    assert torch.equal(lm.generate(text, max_new_tokens=1, add_special_tokens=False).prompt.ids, alone.ids)
    assert torch.equal(lm.logits(text, add_special_tokens=False), lm.logits(alone))
    assert [step.ids.tolist() for step in lm.stream(text, max_new_tokens=2, add_special_tokens=False)]


def test_no_special_tokens_on_the_command_line(with_bos: Path, cutaway: Run):  # noqa: F811
    for verb in ("tokens", "generate", "trace"):
        done = cutaway(verb, "<bos>the cat", "--model", with_bos)
        assert done.code == 0 and "--no-special-tokens for one" in done.err and "Warning" not in done.err
        assert cutaway(verb, "<bos>the cat", "--model", with_bos, "--no-special-tokens").err == ""
    ids = json.loads(cutaway("tokens", "the cat", "--model", with_bos, "--no-special-tokens", "--json").out)["ids"]
    assert 1 not in ids[0]


def test_a_stop_string_that_is_a_special_token(with_bos: Path):
    lm = opened(with_bos)
    chosen = lm.trace("the cat", "ln_final.out", positions=-1)["ln_final.out"][0, 0]
    lm.decoder.unembed.head.weight = torch.nn.Parameter(lm.decoder.unembed.head.weight.clone(), requires_grad=False)
    lm.decoder.unembed.head.weight[2] = 100 * chosen  # it now says <|turn|>
    assert lm.generate("the cat", max_new_tokens=4).new_ids[0][0] == 2
    out = lm.generate("the cat", max_new_tokens=4, stop_strings=["<|turn|>"])
    assert out.new_ids == ((2,),) and out.ended == ("stop",)


def test_generation_config_is_obeyed_where_the_caller_says_nothing(tmp_path: Path, cutaway: Run):  # noqa: F811
    fast = tokenizer(tmp_path)
    a_gpt2(tmp_path, len(fast))
    said = {"repetition_penalty": 1.7, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "num_beams": 4}
    (tmp_path / "generation_config.json").write_text(json.dumps(said | {"num_beams": 1, "eos_token_id": 0}))
    lm, hf = opened(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = lm.tokenize("the cat").ids
    theirs = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, pad_token_id=0)
    assert list(lm.generate(ids, max_new_tokens=8).new_ids[0]) == theirs[0, ids.shape[1] :].tolist()
    plain = lm.generate(ids, max_new_tokens=8, repetition_penalty=1.0).new_ids
    assert plain != lm.generate(ids, max_new_tokens=8).new_ids and lm.notes == []
    (tmp_path / "generation_config.json").write_text(json.dumps(said | {"do_sample": True, "min_p": -3}))
    lm = opened(tmp_path)
    drawn = lm.generate("the cat", max_new_tokens=3, temperature=0.9).steps[0].settings
    assert (drawn.do_sample, drawn.temperature, drawn.top_p, drawn.repetition_penalty) == (True, 0.9, 0.9, 1.7)
    assert not lm.generate("the cat", max_new_tokens=3, do_sample=False).steps[0].settings.do_sample
    assert "do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.7" in " ".join(str(lm).split())
    assert lm.notes == [
        "generation_config.json says min_p=-3, which is left out: a number from 0 to 1 would do",
        "generation_config.json also says num_beams=4, which cutaway does not do",
    ]
    done = cutaway("generate", "the cat", "--model", tmp_path, "--max-new-tokens", "3", "--json")
    assert json.loads(done.out)["settings"]["do_sample"] and "num_beams=4, which cutaway" in done.err
    greedy = cutaway("generate", "the cat", "--model", tmp_path, "--max-new-tokens", "3", "--json", "--no-do-sample")
    assert not json.loads(greedy.out)["settings"]["do_sample"]


def test_several_ends_wherever_they_are_named(tmp_path: Path):
    a_gpt2(tmp_path, 64)
    ids = torch.tensor([[3, 7, 11, 20]])
    whole = opened(tmp_path).generate(ids, max_new_tokens=8).new_ids[0]
    for where in ("generation_config.json", "config.json"):
        said = json.loads((tmp_path / where).read_text())
        (tmp_path / where).write_text(json.dumps(said | {"eos_token_id": [63, whole[2]]}))
        out = opened(tmp_path).generate(ids, max_new_tokens=8)
        assert out.new_ids[0] == whole[: whole.index(whole[2]) + 1] and out.ended == ("eos",)
        (tmp_path / where).write_text(json.dumps({k: v for k, v in said.items() if k != "eos_token_id"}))


def test_a_copy_of_the_folder_without_generation_config_says_nothing(tmp_path: Path):
    a_gpt2(tmp_path / "one", 64)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "generation_config.json").unlink()
    lm = opened(tmp_path / "two")
    assert lm.sampling == {} and "generation_config" not in str(lm)


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_left_padded_row_of_large_values_is_finite_and_as_alone(dtype: str, quantize: str | None, tmp_path: Path):
    config = opt(vocab_size=64, hidden_size=32, num_hidden_layers=2, pad_token_id=1, eos_token_id=2)
    build(config, scale=1.5).save_pretrained(tmp_path)
    lm = load(tmp_path, dtype=dtype, quantize=quantize, device="cpu")
    two = Tokens.from_ids([[1, 1, 1, 2, 7], [2, 5, 6, 7, 8]], [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    alone = torch.tensor([[2, 7]])
    batch, single = lm.logits(two), lm.logits(alone)
    assert batch.isfinite().all()
    rounding = {"float16": 2e-2, "bfloat16": 2e-1, "float32": 1e-5}[dtype]
    assert (batch[0, 3:] - single[0]).abs().max() <= rounding * single.abs().max()
    if dtype == "float32":
        assert lm.generate(two, max_new_tokens=3).new_ids[0] == lm.generate(alone, max_new_tokens=3).new_ids[0]


def test_a_head_that_shares_its_keys_is_named_by_the_shared_one(tmp_path: Path):
    model = build(llama(vocab_size=64, hidden_size=64, num_attention_heads=8, num_key_value_heads=2))
    model.save_pretrained(tmp_path)
    lm, ids = opened(tmp_path), torch.tensor([[3, 7, 11, 20]])
    with pytest.raises(BadArgument, match="key/value head 5"):
        lm.trace(ids, "logits", edits=[Edit.zero("blocks.0.attn.k", head=5)])
    second = torch.arange(16) < 8  # of two value heads, 8 wide, the second goes to zero
    model.model.layers[0].self_attn.v_proj.register_forward_hook(lambda module, args, output: output * second)
    edited = lm.trace(ids, "logits", edits=[Edit.zero("blocks.0.attn.v", head=1)])["logits"]
    with torch.no_grad():
        assert (edited - model(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("said", ["2", ["2"], 2.5, [[2]], True])
def test_an_end_that_is_no_id_is_refused(said: Any, tmp_path: Path):
    a_gpt2(tmp_path, 64)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    with pytest.raises(BadCheckpoint, match="an id or a list of ids"):
        opened(tmp_path).generate(torch.tensor([[3, 7]]), max_new_tokens=2)


def test_an_end_beyond_the_vocabulary_ends_nothing(tmp_path: Path):
    a_gpt2(tmp_path, 64)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [99, -1]}))
    lm, two = opened(tmp_path), Tokens.from_ids([[3, 7, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    assert [len(ids) for ids in lm.generate(two, max_length=5).new_ids] == [2, 4]  # one is over before the other


def test_stop_strings_of_the_model_need_a_tokenizer(tmp_path: Path):
    a_gpt2(tmp_path, 64)
    (tmp_path / "generation_config.json").write_text(json.dumps({"stop_strings": ["x"], "eos_token_id": 0}))
    lm = opened(tmp_path)
    out = lm.generate(torch.tensor([[3, 7]]), max_new_tokens=2)
    assert str(out).startswith("ids " + " ".join(map(str, out.new_ids[0])) + "\n(ended: ")
    with pytest.raises(BadArgument, match="without a tokenizer"):
        lm.generate(torch.tensor([[3, 7]]), max_new_tokens=2, stop_strings=["x"])


def test_a_pad_token_that_also_begins_texts(tmp_path: Path):
    model = build(llama(vocab_size=64, pad_token_id=1, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(tmp_path)
    lm, begun = opened(tmp_path), torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        assert (lm.logits(begun) - model(begun).logits).abs().max() < 1e-4  # a BOS, not padding
    with pytest.warns(UserWarning, match="taken for padding"):
        lm.logits(torch.tensor([[1, 1, 5, 6], [7, 8, 9, 3]]))


def test_what_was_said_of_the_files_is_kept_in_8_bits(tmp_path: Path, cutaway: Run):  # noqa: F811
    a_gpt2(tmp_path / "model", len(tokenizer(tmp_path / "model")))
    set_config(tmp_path / "model", unsloth_fixed=True)
    done = cutaway("quantize", tmp_path / "model", tmp_path / "saved")
    assert done.code == 0 and done.err.count("unsloth_fixed=True") == 1
    lm = load(tmp_path / "saved", device="cpu")
    assert lm.notes == ["config.json also says unsloth_fixed=True, which gpt2 does not read"]


def test_a_pickle_finds_its_files_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_gpt2(tmp_path / "model", 64)
    monkeypatch.chdir(tmp_path)
    lm, ids = load("model", quantize=None, device="cpu"), torch.tensor([[3, 7]])
    written = pickle.dumps(lm)
    monkeypatch.chdir(tmp_path.parent)
    assert torch.equal(pickle.loads(written).logits(ids), lm.logits(ids))


def a_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    """Llama 2's kind of vocabulary, whose spaces stand before words: every text begins with one that decoding drops."""
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)  # type: ignore[assignment]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["the cat sat on the mat and the dog ran"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return fast


def test_the_space_between_a_prompt_and_what_follows(tmp_path: Path, cutaway: Run):  # noqa: F811
    fast = a_sentencepiece(tmp_path)
    a_gpt2(tmp_path, len(fast))
    lm = opened(tmp_path)
    word = next(i for i in range(3, len(fast)) if (lm.tokenizer.token(i) or "").startswith("▁") and i != 3)
    prompt = lm.tokenize("the cat")
    lm.decoder.unembed.head.weight = torch.nn.Parameter(lm.decoder.unembed.head.weight.clone(), requires_grad=False)
    last = lm.trace(prompt, "ln_final.out", positions=-1)["ln_final.out"][0, 0]
    lm.decoder.unembed.head.weight[word] = 100 * last  # a word follows
    out = lm.generate("the cat", max_new_tokens=3)
    whole = fast.decode([*prompt.ids[0].tolist(), *out.new_ids[0]])
    assert out.text.startswith(" ") and "the cat" + out.text == whole and str(out).startswith(whole)
    assert lm.generate(["the cat", "the"], max_new_tokens=3).text[0] == out.text


def test_a_bare_gpt2_folder_that_names_no_model_type(tmp_path: Path, cutaway: Run):  # noqa: F811
    fast = tokenizer(tmp_path / "made")
    a_gpt2(tmp_path / "old", len(fast))
    state = json.loads(fast.backend_tokenizer.to_str())["model"]
    (tmp_path / "old" / "vocab.json").write_text(json.dumps(state["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in state["merges"])
    (tmp_path / "old" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    set_config(tmp_path / "old", model_type=...)
    expected = fast("the cat sat").input_ids
    assert opened(tmp_path / "old").tokenize("the cat sat").ids[0].tolist() == expected
    done = cutaway("tokens", "the cat sat", "--model", tmp_path / "old", "--json")
    assert json.loads(done.out)["ids"] == [expected]


def test_a_tokenizer_that_does_not_fit_its_model_is_said(tmp_path: Path):
    fast = tokenizer(tmp_path, ("<|im_end|>",))
    a_gpt2(tmp_path, len(fast) - 2)
    fast.eos_token = "<|im_end|>"  # the chat's end, where the model's files name another
    fast.save_pretrained(tmp_path)
    assert opened(tmp_path).notes == [
        f"the tokenizer has {len(fast)} tokens and the embedding {len(fast) - 2} rows: "
        f"ids from {len(fast) - 2} on cannot be read",
        "the tokenizer's end, ⟨<|im_end|>⟩ (id 1), is none of the model's: it ends no text",
    ]


def test_what_a_notebook_shows_is_short(tmp_path: Path):
    a_gpt2(tmp_path, len(tokenizer(tmp_path)))
    lm = opened(tmp_path)
    shown = [repr(lm), repr(lm.tokenize(["the cat"] * 9)), repr(lm.generate("the cat", max_new_tokens=2))]
    assert all(len(line) < 250 and "\n" not in line for line in shown)
