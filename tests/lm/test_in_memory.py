"""A transformers model in memory: the numbers, notes and refusals of the same model in files, and nothing written."""

import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cutaway.ground.errors import BadArgument, BadCheckpoint, CutawayError, NoTokenizer, UnsupportedModel
from cutaway.lm import load
from tests.tiny import CONFIGS, WITH_TOKENIZER, build, llama, opt, save_tokenizer

IDS = torch.tensor([[3, 7, 5, 4]])


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_model_that_its_files_give(name: str, quantize: str | None, tmp_path: Path):
    model = build(CONFIGS[name])
    lm = load(model, quantize=quantize, device="cpu")
    model.save_pretrained(tmp_path)
    saved = load(tmp_path, quantize=quantize, device="cpu")
    assert lm.config == saved.config and lm.eos_ids == saved.eos_ids and lm.sampling == saved.sampling
    assert [note.replace("its config", "config.json") for note in lm.notes] == saved.notes
    one, other = lm.trace(IDS), saved.trace(IDS)
    assert all(torch.equal(one[site], other[site]) for site in other)


def test_its_weights_are_a_copy():
    model = build(CONFIGS["llama"])
    lm = load(model, quantize=None, device="cpu")
    with torch.no_grad():
        assert (lm.logits(IDS) - model(IDS).logits).abs().max() < 1e-4
        before = lm.logits(IDS)
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(lm.logits(IDS), before)


def test_it_takes_a_tokenizer_and_leaves_it_as_it_is(tmp_path: Path):
    save_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.backend_tokenizer.enable_truncation(2)
    theirs.chat_template = "{{ messages[0].content }}"
    model = build(WITH_TOKENIZER["llama"])
    for given in (theirs, tmp_path, str(tmp_path)):
        lm = load(model, tokenizer=given, device="cpu")
        assert str(lm) and lm.generate("the cat sat on", max_new_tokens=2).steps[0].text != ()
        assert lm.tokenize("the cat sat on").ids.shape[1] > 2
    assert theirs.backend_tokenizer.truncation is not None
    assert load(model, tokenizer=theirs, device="cpu").chat_prompt("the cat").ids.shape[1] > 1
    with pytest.raises(NoTokenizer, match=r"a model from memory without a tokenizer.*pass tokenizer="):
        load(model, device="cpu").tokenize("the cat")
    for wrong in (3, "no/such/folder", transformers.AutoTokenizer):
        with pytest.raises(NoTokenizer):
            load(model, tokenizer=wrong, device="cpu")


def test_a_tokenizer_replaces_that_of_a_folder_and_is_kept(tmp_path: Path):
    build(WITH_TOKENIZER["gpt2"]).save_pretrained(tmp_path / "model")
    (tmp_path / "beside").mkdir()
    save_tokenizer(tmp_path / "beside")
    lm = load(tmp_path / "model", tokenizer=tmp_path / "beside", device="cpu")
    again = pickle.loads(pickle.dumps(lm))
    assert str(again.tokenize("the cat")) == str(lm.tokenize("the cat"))


def test_what_is_checked_reads_the_model_while_it_is_there(tmp_path: Path):
    save_tokenizer(tmp_path)
    model = build(WITH_TOKENIZER["opt"])
    lm = load(model, tokenizer=tmp_path, quantize=None, device="cpu")
    assert lm.name == "OPTForCausalLM in memory" and lm.name in str(lm)
    assert lm.check().passed and lm.damage("the cat sat on").layers
    again = pickle.loads(pickle.dumps(lm))  # with its weights
    assert torch.equal(again.logits(IDS), lm.logits(IDS)) and again.name == lm.name
    with pytest.raises(BadArgument, match=r"a model that came from memory; .* save_pretrained"):
        lm.check(against="transformers")
    del model
    gc.collect()
    for gone in (lm, again):
        with pytest.raises(BadArgument, match="no longer in memory"):
            gone.check()
    assert lm.generate("the cat", max_new_tokens=2).text


REFUSED: list[tuple[Any, type[CutawayError], str]] = [
    (transformers.BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8),
     UnsupportedModel, "model_type='bert' in the config of BertForMaskedLM in memory"),
    (llama(hidden_act="tanh"), UnsupportedModel, "hidden_act='tanh' in the config of LlamaForCausalLM in memory"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "kind", "words"), REFUSED)
def test_one_that_is_not_supported_is_refused_by_name(config: Any, kind: type[CutawayError], words: str):
    model = transformers.AutoModelForMaskedLM if config.model_type == "bert" else transformers.AutoModelForCausalLM
    with pytest.raises(kind, match=words):
        load(model.from_config(config), device="cpu")


def test_what_is_no_model_in_memory_is_refused(tmp_path: Path):
    with pytest.raises(UnsupportedModel, match="OPTForSequenceClassification"):
        load(transformers.OPTForSequenceClassification(opt()), device="cpu")
    with torch.device("meta"):
        empty = transformers.OPTForCausalLM(opt())
    with pytest.raises(BadCheckpoint, match="on the meta device"):
        load(empty, device="cpu")
    with pytest.raises(BadArgument, match="a Linear as a model"):
        load(torch.nn.Linear(2, 2), device="cpu")
    with pytest.raises(BadArgument, match="model=3"):
        load(3, device="cpu")  # type: ignore[arg-type]
    strange = build(opt())
    strange.model.decoder.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(BadCheckpoint, match=r"the tensor 'model.decoder.layers.0.extra.weight'"):
        load(strange, device="cpu")
    packed = build(opt())
    packed.lm_head.weight = torch.nn.Parameter(packed.lm_head.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModel, match="in int8 in OPTForCausalLM in memory"):
        load(packed, device="cpu")
