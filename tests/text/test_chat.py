"""Chat prompts equal transformers', and a template cannot leave its sandbox."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cutaway.ground.errors import BadArgument, BadText, NoTokenizer
from cutaway.text.chat import chat_prompt, chat_tokens
from cutaway.text.parts import Parts
from cutaway.text.tokenizer import Tokenizer

# SmolLM2-Instruct's template (Apache-2.0, HuggingFaceTB/SmolLM2-135M-Instruct)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPACED = """
{%- for m in messages %}
    {% if m.role not in ['user', 'assistant'] %}
        {{- raise_exception('only user and assistant') }}
    {% endif %}
    {% generation %}{{ bos_token }}{{ m | tojson }}{% endgeneration %}
    {% if loop.last %}{% break %}{% endif %}
{% endfor %}
{% set ns = namespace(n=messages | length) %}{{ ns.n }}
"""
HELLO = [{"role": "user", "content": "Hello <b> 日本"}]
TALK = [{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "Hi."}, *HELLO]


def with_template(tokenizer: Tokenizer, template: str | None) -> Tokenizer:
    return Tokenizer(Parts(tokenizer.backend, {"bos_token": "<s>"}, template))


@pytest.mark.parametrize(("template", "messages"), [(SMOLLM2, HELLO), (SMOLLM2, TALK), (SPACED, HELLO)])
def test_prompts_are_those_of_transformers(trained: Tokenizer, template: str, messages: list[dict[str, Any]]) -> None:
    reference = PreTrainedTokenizerFast(tokenizer_object=trained.backend, bos_token="<s>")
    reference.chat_template = template
    expected = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_prompt(with_template(trained, template), messages) == expected


def test_smollm2_is_told_who_it_is(trained: Tokenizer) -> None:
    prompt = chat_prompt(with_template(trained, SMOLLM2), HELLO)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith("<|im_start|>assistant\n")


def test_without_a_template_there_is_no_chat(trained: Tokenizer) -> None:
    with pytest.raises(NoTokenizer, match="without a chat template"):
        chat_prompt(trained, HELLO)


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([], "no messages; expected a text, or a list of messages with role and content"),
        (3, "messages of type int; expected a text, or a list"),
        (["hello"], r"a message that is no dict \(str\); expected a text, or a list"),
        ([{"content": "hello"}], "a message without a role; expected a text, or a list"),
        ([{"role": "user", "content": None}], "messages that the model's chat template refuses"),
    ],
)
def test_messages_of_the_wrong_shape_are_refused(trained: Tokenizer, messages: Any, found: str) -> None:
    with pytest.raises(BadArgument, match=f"found {found}"):
        chat_prompt(with_template(trained, SMOLLM2), messages)


def test_a_template_that_refuses_says_why(trained: Tokenizer) -> None:
    with pytest.raises(BadArgument, match="only user and assistant"):
        chat_prompt(with_template(trained, SPACED), [{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "template",
    ["{{ ''.__class__.__mro__ }}", "{{ namespace(__class__=1) }}", "{{ messages.append(1) }}", "{{ nowhere.x }}"],
)
def test_a_template_stays_in_its_sandbox(trained: Tokenizer, template: str) -> None:
    with pytest.raises(BadArgument, match="refuses"):
        chat_prompt(with_template(trained, template), HELLO)


@pytest.fixture
def with_bos(trained: Tokenizer, tmp_path: Path) -> Path:
    """A folder whose tokenizer puts BOS before a text, and whose chat template writes it too, as Llama 3's."""
    backend = type(trained.backend).from_str(trained.backend.to_str())
    backend.add_special_tokens(["<bos>"])
    bos = ("<bos>", backend.token_to_id("<bos>"))
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    saved = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<|end|>")
    saved.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    saved.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    return tmp_path


def test_f19_chat_tokens_hold_one_bos_as_transformers_gives_them(with_bos: Path) -> None:
    reference, tokenizer = AutoTokenizer.from_pretrained(with_bos), Tokenizer.from_folder(with_bos)
    expected = reference.apply_chat_template(HELLO, return_dict=False, add_generation_prompt=True)
    assert chat_tokens(tokenizer, HELLO).ids.tolist() == [expected]
    assert expected.count(tokenizer.bos_id) == 1
    with pytest.raises(BadText, match="at most 3"):
        chat_tokens(tokenizer, HELLO, context=3)


def test_f19_a_second_bos_is_kept_as_transformers_keeps_it_and_warned_of(with_bos: Path) -> None:
    reference, tokenizer = AutoTokenizer.from_pretrained(with_bos), Tokenizer.from_folder(with_bos)
    with pytest.warns(
        UserWarning, match="two BOS, as transformers gives them; pass add_special_tokens=False"
    ) as caught:
        ids = tokenizer.tokenize("<bos>the cat").ids[0].tolist()
    assert len(caught) == 1
    assert ids == reference("<bos>the cat").input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer.tokenize("<bos>the cat", add_special_tokens=False).ids[0].tolist() == ids[1:]
        assert tokenizer.tokenize("the <bos>cat").ids[0].tolist() == reference("the <bos>cat").input_ids


def test_of_several_templates_the_default_one_is_taken(with_bos: Path) -> None:
    path = with_bos / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages[0].content }}!"}]
    (with_bos / "chat_template.jinja").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    expected = AutoTokenizer.from_pretrained(with_bos).apply_chat_template(HELLO, tokenize=False)
    assert chat_prompt(Tokenizer.from_folder(with_bos), HELLO) == expected == HELLO[0]["content"] + "!"


def test_a_template_in_a_file_of_its_own_is_found(with_bos: Path) -> None:
    (with_bos / "chat_template.jinja").write_text("from jinja")
    assert chat_prompt(Tokenizer.from_folder(with_bos), HELLO) == "from jinja"
    (with_bos / "chat_template.jinja").unlink()
    (with_bos / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert chat_prompt(Tokenizer.from_folder(with_bos), HELLO) == "from json"


def test_a_template_that_is_no_jinja_is_named_as_such() -> None:
    parts = Parts(Backend(models.WordLevel({"a": 0}, unk_token="a")), {}, "{% for m in messages %}{{ m.content }")
    with pytest.raises(NoTokenizer, match="a chat template that is no Jinja \\(line 1"):
        chat_prompt(Tokenizer(parts), [{"role": "user", "content": "a"}])
