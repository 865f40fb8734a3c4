"""The questions one can ask of a model, as methods of LM: each calls its analysis and gives a finding.

reading.py: of one pass; changing.py: of passes with other values in them; precision.py: of numbers and formats.
"""

from cutaway.questions.base import Texts
from cutaway.questions.changing import Changing
from cutaway.questions.precision import Precision
from cutaway.questions.reading import Reading

__all__ = ["Questions", "Texts"]


class Questions(Reading, Changing, Precision):
    """What LM inherits."""
