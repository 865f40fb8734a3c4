"""How every public object looks: a short repr, HTML that is whole and escaped, pictures that are their numbers."""

import re
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import cutaway
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM
from cutaway.model import architecture
from cutaway.quant.explain import explain, int8_layers
from cutaway.show import figures
from cutaway.show.colours import numbers
from cutaway.show.finding import Listing
from cutaway.show.html.parts import piece, table
from cutaway.show.pictures import Bars, Heatmap, Lines, Picture
from cutaway.show.svg import svg
from tests.tiny import noise, tiny_lm

EVIL = '<script>alert("&")</script>'
VOID = {"br", "img"}
NO_PICTURE = Listing({}, f"a text, {EVIL}", model="none")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return tiny_lm("llama", tmp_path_factory.mktemp("faces"), quantize="int8")


@pytest.fixture(scope="module")
def things(lm: LM) -> dict[str, Any]:
    """An instance of every public class, and of what its methods give."""
    tokens = lm.tokenize([f"the cat {EVIL} sat", "a dog 🙂"])
    trace = lm.trace(tokens)
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 0}
    run = lm.generate([f"the {EVIL}", "a dog"], sites="*.resid_post", **settings)
    edit = cutaway.Edit.add("blocks.0.resid_post", noise(lm.config.d_model))
    name, layer = next(iter(int8_layers(lm.decoder).items()))
    explained = explain(layer, noise(3, layer.in_features))
    texts = ["the cat sat"]
    return {
        "LM": lm, "Tokens": tokens, "Trace": trace, "Plan": trace.plan, "Generation": run, "Step": run.steps[1],
        "greedy": lm.generate("the cat", max_new_tokens=2), "Edit": edit, "Sampling": run.settings,
        "Piece": tokens.pieces and tokens.pieces[0][0], "config": lm.config, "read": run.trace, "layer name": name,
        "Recording": lm.recording(tokens, "*", **settings), "Explained": explained, "Output": explained.output((0,), 0),
        "effect": lm.effect(["the cat sat"] * 40, edit), "why": lm.why(trace, "blocks.1.attn.z", 0, 3, 1, 2),
        "check": lm.check(), "lens": lm.lens(texts), "heads": lm.heads(texts),
        "attribute": lm.attribute(texts, by="head"), "perplexity": lm.perplexity("the cat sat on the mat"),
        "text": NO_PICTURE,
    }  # fmt: skip


def test_every_public_class_is_looked_at(things: dict[str, Any]):
    classes = {name for name in cutaway.__all__ if isinstance(getattr(cutaway, name), type)}
    assert classes and classes <= {type(thing).__name__ for thing in things.values()}


def test_a_repr_is_short_and_says_more_than_an_address(things: dict[str, Any]):
    for name, thing in things.items():
        shown = repr(thing)
        assert len(shown) <= 600 and shown.count("\n") < 6, (name, len(shown))
        assert " object at 0x" not in shown and "tensor(" not in shown, (name, shown)
    assert repr(things["Trace"]).startswith(f"<Trace of {things['LM'].name}: {len(things['Trace'])} sites, ")
    assert repr(things["Edit"]) == "Edit(site='blocks.0.resid_post', op='add', value=float32 [32])"


class Whole(HTMLParser):
    """Raises where a tag is not closed in its order; keeps the text and the tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.opened, self.opened

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.opened += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


DRAWN = ("LM", "Tokens", "Trace", "Plan", "Generation", "Step", "greedy", "read", "effect", "why", "check", "lens",
         "heads", "attribute", "perplexity", "text")  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_html_is_whole_and_runs_nothing(things: dict[str, Any], name: str):
    html = things[name]._repr_html_()
    page = Whole(html)
    assert "script" not in page.tags and "<script" not in html
    assert not re.search(r"\son\w+=|https?://(?!www.w3.org/2000/svg)", html)
    for drawing in re.findall(r"<svg .*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_html_says_what_the_object_holds(things: dict[str, Any]):
    tokens, run = things["Tokens"], things["Generation"]
    shown = Whole(tokens._repr_html_()).text
    assert all(str(id) in shown for id in tokens.ids.flatten().tolist()) and "padding" in shown
    steps = Whole(run._repr_html_()).text
    for row, text in enumerate(run.text):
        assert re.sub(r"[\x00-\x08\x0b-\x1f]", "\ufffd", text) in steps and f"ended: {run.ended[row]}" in steps
    assert "u = {:.4f} falls in [{:.4f}, {:.4f})".format(float(run.steps[1].u[0]), *run.steps[1].interval()) in steps
    assert all(claim.claim in Whole(things["check"]._repr_html_()).text for claim in things["check"].lines)
    lm = things["LM"]
    assert f"{architecture.parameters(lm.decoder):,} parameters" in Whole(lm._repr_html_()).text


def test_a_notebook_gets_the_text_beside_the_html(things: dict[str, Any]):
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(things["lens"])
    assert data["text/plain"] == str(things["lens"]) and data["image/png"][:4] == b"\x89PNG" and "text/html" in data
    nested, _ = DisplayFormatter().format([things["Tokens"]])
    assert nested["text/plain"] == f"[{things['Tokens']!r}]"


def heatmap(height: int = 2, width: int = 3, **over: Any) -> Heatmap:
    values = noise(height, width)
    names = {"rows": [f"r{i}" for i in range(height)], "columns": [f"$c{i}$ {EVIL}" for i in range(width)]}
    return Heatmap(**{"title": EVIL, "values": values, **names, "row_axis": "block", "column_axis": "position",
                      "unit": "nats", **over})  # fmt: skip


PICTURES: list[Picture] = [
    heatmap(),
    heatmap(values=torch.tensor([[1.0, float("nan"), float("-inf")], [0.0, -2.0, 0.5]])),
    heatmap(words=[[" the", "\n", EVIL]] * 2),
    heatmap(values=torch.zeros(2, 3, dtype=torch.float32, device="cpu")),
    heatmap(70, 60),
    Lines("a", ["0", "1", "2"], {"one": [1.0, float("nan"), 3.0], EVIL: [0.0, 0.0, 0.0]}, "block", "nats"),
    Lines("a single point", ["0"], {"one": [5.0]}, "block", "nats"),
    Bars("b", ["x", "a much longer label that has to be cut somewhere"], [-3.0, 1e9], "logits", [0.5, 1.0]),
    Bars("none", ["x"], [float("nan")], "logits"),
]


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_is_an_svg_and_a_figure(picture: Picture, tmp_path: Path):
    ElementTree.fromstring(svg(picture))
    assert EVIL not in svg(picture)
    figures.write([picture], tmp_path / "out.svg")
    figures.write([picture, picture], tmp_path / "out.PNG")
    drawn = (tmp_path / "out.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(drawn)
    width = float(re.findall(r'width="([\d.]+)pt"', drawn)[0]) / 72
    assert width == pytest.approx(figures.COLUMN) or width == pytest.approx(figures.PAGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.PNG", "out.svg"]
    assert figures.rendered([picture], "svg") == figures.rendered([picture], "svg")


def test_a_cell_tells_its_own_number_and_has_its_own_colour():
    picture = heatmap()
    root = ElementTree.fromstring(svg(picture))
    told = {rect[0].text: rect.attrib for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)}
    largest = float(picture.values.abs().max())
    for i, row in enumerate(picture.values.tolist()):
        for j, value in enumerate(row):
            cell = told[f"block r{i}, position $c{j}$ {EVIL}: {value:.3g} nats"]
            assert float(cell["fill-opacity"]) == pytest.approx(abs(value) / largest, abs=1e-3)
            assert cell["fill"] == ("#c85500" if value >= 0 else "#0a7abf")


def test_a_large_heatmap_is_a_bitmap_of_its_values():
    picture = heatmap(70, 60)
    data = re.search(r"base64,([^\"]+)", svg(picture))
    assert data is not None
    png = b64decode(data[1])
    start, length = png.index(b"IDAT") + 4, int.from_bytes(png[png.index(b"IDAT") - 4 :][:4], "big")
    rows = np.frombuffer(zlib.decompress(png[start : start + length]), np.uint8).reshape(70, 1 + 60 * 4)
    alpha = torch.from_numpy(rows[:, 1:].reshape(70, 60, 4)[..., 3].copy())
    expected = picture.values.abs() / picture.values.abs().max() * 255
    assert (alpha - expected).abs().max() <= 1
    assert int(png[png.index(b"IEND") + 4 :].hex(), 16) == zlib.crc32(b"IEND")


def test_numbers_of_one_picture_have_the_same_decimals():
    assert numbers([0.123456, -2.0, float("nan"), -0.001]) == ["0.12", "-2.00", "", "0.00"]
    assert numbers([1e-7, 2e9]) == ["1e-07", "2e+09"]


def test_text_in_a_figure_is_text():
    drawn = figures.rendered([heatmap(rows=["␣Mary", "$x$"])], "svg").decode()
    assert "<text" in drawn and "␣Mary" in drawn and "$x$" in drawn


def test_plot_draws_on_given_axes_and_refuses_a_wrong_number(things: dict[str, Any]):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert things["effect"].plot(list(Figure((9, 90)).subplots(41))) and things["why"].plot(ax) is ax
    with pytest.raises(BadArgument, match="ax= with 1 for 41 pictures"):
        things["effect"].plot(ax)
    with pytest.raises(BadArgument, match="all text"):
        NO_PICTURE.plot()
    assert NO_PICTURE._repr_png_() is None


def test_what_cannot_be_drawn_is_said(things: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadArgument, match=r"out\.gif"):
        things["why"].save_figure(tmp_path / "out.gif")
    with pytest.raises(BadArgument, match="cannot be written"):
        things["why"].save_figure(tmp_path / "missing" / "out.svg")
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(BadArgument, match=r"no matplotlib.*cutaway\[figures\]"):
        things["why"].plot()
    assert things["why"]._repr_png_() is None and "<svg" in things["why"]._repr_html_()


def test_drawing_is_imported_when_something_is_drawn():
    code = (
        "import sys, cutaway; print([n for n in sys.modules if n.startswith(('cutaway.show', 'matplotlib', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_parts_escape_what_they_are_given():
    assert "<script" not in piece(EVIL, (0, 0, 0), 0.5, EVIL)
    assert table((), [("a", "b")], right=(1,)).count("<td") == 2
