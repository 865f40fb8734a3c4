"""`cutaway gradients`: how the next token's logit would change with each token of the text.

It prints gradient x input; it does not know how a gradient is computed.
"""

from cutaway.apps.cli.common import Options, read_texts, verb
from cutaway.apps.cli.options import Against, NoSpecial, Texts, WantedToken


@verb
def gradients(
    options: Options,
    texts: Texts,
    answer: WantedToken = None,
    against: Against = None,
    no_special_tokens: NoSpecial = False,
) -> None:
    """How each token moves a logit: gradient x input. To first order, as the token's embedding grows."""
    read = read_texts(texts)
    with options.opened() as lm:
        found = lm.gradients(read, answer, against, add_special_tokens=not no_special_tokens)
    options.print(found)
