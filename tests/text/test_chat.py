"""Chat prompts equal transformers', and a template cannot leave its sandbox."""

from typing import Any

import pytest

from cutaway.ground.errors import BadArgument, NoTokenizer
from cutaway.text.chat import chat_prompt
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
    from transformers import PreTrainedTokenizerFast

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


@pytest.mark.parametrize("messages", [[], ["hello"], [{"role": "user", "content": None}]])
def test_messages_of_the_wrong_shape_are_refused(trained: Tokenizer, messages: list[Any]) -> None:
    with pytest.raises(BadArgument):
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
