"""Every line of Python in the README and the pages beside it runs as it stands, and so does every example.

On the real default model; pages that begin with `name = None` on a small random one with its tokenizer.
"""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutaway.ground.select import BLOCK, select
from cutaway.ground.sites import all_sites
from cutaway.lm import LM, load
from tests.model_types import OPTIONS, drawn
from tests.parity.real import file
from tests.tiny import build, facts, llama

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FENCE, ROW = re.compile(r"```(\w*)\n(.*?)```|^(\|[^\n]*\|)$", re.DOTALL | re.MULTILINE), re.compile(r"`([^`]+)`")

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]


def ours(page: Path) -> Iterator[str]:
    """A page's Python in its order: blocks marked python, and code in the last column of tables headed cutaway."""
    header = ""
    for language, code, row in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            yield code
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row and not ROW.search(row) and set(row) - set("|- "):
            header = cells[-1]
        elif header == "cutaway":
            yield from ROW.findall(cells[-1])


RUN = [page for page in PAGES if any(ours(page))]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder with two prompts, and figures that are closed."""
    from matplotlib import pyplot

    file()  # skips where the model cannot be fetched
    (tmp_path / "prompts").mkdir()
    for name, text in (("a", "The capital of France is"), ("b", "I love")):
        (tmp_path / "prompts" / f"{name}.txt").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def test_the_pages_have_python():
    assert {page.stem for page in RUN} >= {"README", "from-transformers", "from-transformer-lens", "many-prompts"}
    assert len(list(ours(ROOT / "docs" / "from-transformers.md"))) > 40


@pytest.fixture
def small(prepared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder "small", a model that can be loaded often; its text is random."""
    config = llama(vocab_size=49152, num_hidden_layers=10, max_position_embeddings=2048, eos_token_id=2)
    build(config, scale=0.1).save_pretrained("small")
    monkeypatch.setattr(LM, "tokenizer", load().tokenizer)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
@pytest.mark.usefixtures("prepared")
def test_the_python_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest):
    names: dict[str, object] = {}
    codes = list(ours(page))
    if small := "name = None" in codes[0]:
        request.getfixturevalue("small")
    for code in codes:  # one after the other, as a reader would
        code = code.replace("name = None", "name = 'small'") if small else code
        try:
            exec(compile(code, page.name, "exec"), names)
        except Exception as error:
            error.add_note(f"in {page.name}: {code}")
            raise
    printed = capsys.readouterr().out
    if page.stem == "README":
        assert "134,515,008" in printed and "␣Machine" in printed and "falls in" in printed
        assert "recomputed" in printed and "claims hold" in printed and Path("recipe.json").is_file()
        shown = re.findall(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        assert shown and all(text in printed for text in shown)
    if page.stem == "many-prompts":
        assert sorted(path.name for path in Path("prompts").glob("*.out")) == ["a.out", "b.out"]


def test_the_names_beside_transformer_lens_are_sites(lm: LM):
    text = (ROOT / "docs" / "from-transformer-lens.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", text.partition("## Names")[2].partition("\n## ")[0], re.MULTILINE)[2:]
    assert len(rows) > 10
    theirs = {"hook_embed": "embed.token", "hook_pos_embed": "embed.position", "attn.hook_attn_scores": "attn.scores",
              "embed.ln.hook_scale": "embed_ln.scale", "ln1_post.hook_out": "attn_out", "ln2_post.hook_out": "mlp_out",
              "mlp.hook_expert_weights": "mlp.router_logits",
              "mlp.hook_expert_indices": "mlp.router_scores"}  # fmt: skip
    known = {BLOCK.sub("", site) for model_type in OPTIONS for site in all_sites(facts(drawn(model_type, 0)))}
    for left, right in rows:
        sites = ROW.findall(right)
        assert all(theirs.get(hook, hook.replace("hook_", "")) in sites for hook in ROW.findall(left))
        assert set(sites) <= known
    assert select(lm.config, "hook_resid_post") == select(lm.config, "resid_post")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_runs(path: Path, capsys: pytest.CaptureFixture[str]):
    file()
    runpy.run_path(str(path))["main"]()
    assert len(capsys.readouterr().out.splitlines()) >= 5
