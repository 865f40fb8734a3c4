"""Every error a user can cause, each as one sentence: what was found, what was expected, what to do.

It does not know how an error is shown, nor its exit code. Each class has a page in docs/errors.
"""


class CutawayError(Exception):
    """Base of all errors that a user can cause and fix.

    Args:
        found: the wrong input, with its name and value ("top_p=0").
        expected: a valid input ("a number above 0 and at most 1").
        do: what to do, as an imperative ("pass for example --top-p 0.9").
    """

    def __init__(self, found: str, expected: str, do: str) -> None:
        found = " ".join(found.splitlines())  # a tensor prints itself in several lines
        self.found, self.expected, self.do = found, expected, do
        super().__init__(f"found {found}; expected {expected}; {do}.")


class BadArgument(CutawayError, ValueError):
    """A number, name or option that no run could use: a negative length, top_p=0, an unknown mode."""


class BadText(CutawayError, ValueError):
    """A text that cannot be run: empty, or longer than the model's context."""


class ModelNotFound(CutawayError, FileNotFoundError):
    """A model name that is no file, no folder, and no model of the hub (or the hub cannot be reached)."""

    def __str__(self) -> str:  # FileNotFoundError would print its arguments as a tuple
        return str(self.args[0])


class BadCheckpoint(CutawayError):
    """Weights that cannot be trusted: truncated, corrupted, tensors missing or unknown, a pickle with code."""


class UnsupportedModel(CutawayError):
    """An architecture, or a config attribute's value, that the decoder does not compute."""


class NoTokenizer(CutawayError):
    """A model whose files hold no tokenizer that can be built."""


class DownloadFailed(CutawayError):
    """A file that could not be fetched, or whose hash is wrong."""


class NotFinite(CutawayError, ArithmeticError):
    """NaN or infinity where a number was needed: logits without a next token."""
