"""Messages to one prompt, by the model's own chat template.

It does not know the model that answers. A template is untrusted code: it runs in Jinja's sandbox, as in transformers.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from cutaway.ground.errors import BadArgument, NoTokenizer
from cutaway.text.pieces import Tokens
from cutaway.text.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]


def chat_prompt(tokenizer: Tokenizer, messages: str | Messages) -> str:
    """The prompt that asks for the next message, as transformers' apply_chat_template(add_generation_prompt=True).

    messages: [{"role": "user", "content": "Hello"}, ...], or a string, which is one message of the user. The special
    tokens are in the prompt: tokenize it with add_special_tokens=False. Raises NoTokenizer without a template,
    BadArgument where the template refuses.
    """
    if not tokenizer.chat_template:
        do = "pass the text itself, or use an instruction-tuned model"
        raise NoTokenizer("a model without a chat template", "one in its tokenizer files", do)
    messages = _checked(messages)
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    try:
        template = _compiled(tokenizer.chat_template)
        variables = {**tokenizer.names, "messages": messages, "tools": None, "documents": None}
        return template.render(**variables, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        found = f"a chat template that is no Jinja (line {error.lineno}: {error.message})"
        raise NoTokenizer(found, "one that can be run", "fetch the model's tokenizer files again") from error
    except (TemplateError, TypeError) as error:  # TypeError: a template that joins a string and a missing content
        found = f"messages that the model's chat template refuses ({str(error).rstrip('.')})"
        raise BadArgument(found, "messages as the template takes them", "change the roles or contents") from error


def chat_tokens(tokenizer: Tokenizer, messages: str | Messages, context: int | None = None) -> Tokens:
    """The ids of that prompt [1, T], as transformers' apply_chat_template gives them: BOS comes from the template
    alone. Raises as chat_prompt, and BadText for more than `context` tokens."""
    return tokenizer.tokenize(chat_prompt(tokenizer, messages), add_special_tokens=False, context=context)


def _checked(messages: str | Messages) -> list[dict[str, Any]]:
    """The messages as dicts, which templates write as JSON."""
    if isinstance(messages, str) and messages:
        return [{"role": "user", "content": messages}]
    listed = list(messages) if isinstance(messages, list | tuple) else []
    if listed and all(isinstance(message, Mapping) and "role" in message for message in listed):
        return [dict(message) for message in listed]
    wrong = [message for message in listed if not isinstance(message, Mapping)]
    found = f"a message that is no dict ({type(wrong[0]).__name__})" if wrong else "a message without a role"
    if not listed:
        empty = isinstance(messages, str | list | tuple)
        found = "no messages" if empty else f"messages of type {type(messages).__name__}"
    do = 'pass for example [{"role": "user", "content": "Hello"}]'
    raise BadArgument(found, "a text, or a list of messages with role and content", do)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %}…{% endgeneration %} marks the assistant's words for training: only its body is rendered."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own interface)

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def namespace(*pairs: Any, **values: Any) -> Namespace:
        # Underscored attributes of a namespace are a way out of the sandbox
        if any(str(name).startswith("_") for name in dict(*pairs, **values)):
            raise SecurityError("a namespace with an underscored name")
        return Namespace(*pairs, **values)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda pattern: datetime.now().strftime(pattern),
        "namespace": namespace,
    }
    return environment.from_string(source)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
