"""Generating, forking and choosing over the socket: each number is the one that Python gives."""

import json
import math
from pathlib import Path

import pytest
import torch

from cutaway import Edit
from cutaway.apps.server.asks import writing
from cutaway.ground.errors import BadArgument
from cutaway.lm import LM, load
from tests.tiny import tiny_lm

from .conftest import Reader, Serving
from .test_reading import OTHER, Page

DRAWN = {"do_sample": True, "temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2}
TEXT = "the cat sat on"


def written(reader: Reader, **asked) -> tuple[dict, list[dict], dict]:
    """The first answer, the steps, the last answer of a generation."""
    first, *steps, last = reader.until(reader.ask(**asked))
    assert "answer" in last, last
    return first["answer"], [step["answer"]["step"] for step in steps], last["answer"]


def test_hello_says_what_the_model_is(running: Serving) -> None:
    with running.reader(hello=False) as reader:
        said = reader.answer("hello")["answer"]
    assert said["model"]["n_layers"] == 3 and said["model"]["precision"] == "int8"
    assert [site["name"] for site in said["sites"]] == running.lm.sites
    assert said["limits"]["message_bytes"] == 100_000 and "settings" in said and said["chat"] is False


@pytest.mark.parametrize("settings", [{}, DRAWN], ids=["greedy", "drawn"])
def test_generate_is_python_s(reader: Reader, plain: LM, settings: dict) -> None:
    first, steps, last = written(reader, name="generate", text=TEXT, settings=settings, seed=4, max_new_tokens=12)
    out = plain.generate(TEXT, seed=4, max_new_tokens=12, **settings)
    assert [piece["id"] for piece in first["prompt"]] == out.prompt.ids[0].tolist()
    assert [step["id"] for step in steps] == list(out.new_ids[0]) and last["text"] == out.text
    for said, step in zip(steps, out.steps, strict=True):
        probs = step.logits[0].double().softmax(-1)
        assert math.isclose(said["prob"], float(probs[said["id"]]), rel_tol=1e-9)
        assert math.isclose(said["entropy"], float(-(probs * probs.log()).sum()), rel_tol=1e-9)
        assert said["rank"] == int((probs > probs[said["id"]]).sum())
        assert said["u"] == (None if step.u is None else float(step.u[0]))
    cache = plain.generate(TEXT, keep_cache=True, max_new_tokens=12).cache
    assert cache is not None and cache.cache is not None
    filled = cache.nbytes * cache.cache.length // cache.cache.capacity
    assert (steps[-1]["cache_tokens"], steps[-1]["cache_bytes"]) == (cache.cache.length, filled)
    given = "".join(f", {name}={value!r}" for name, value in (settings | {"seed": 4, "max_new_tokens": 12}).items())
    assert last["python"].startswith("import cutaway\n")
    assert last["python"].endswith(f")\nout = lm.generate({TEXT!r}{given})")


def test_generate_with_edits_is_python_s(reader: Reader, plain: LM) -> None:
    edits = [Edit.scale("blocks.1.mlp_out", -2.0), Edit.zero("blocks.0.attn.z", head=1)]
    sent = [edit.as_data() for edit in edits]
    _, _, last = written(reader, name="generate", text=TEXT, edits=sent, max_new_tokens=8)
    assert last["text"] == plain.generate(TEXT, edits=edits, max_new_tokens=8).text != plain.generate(TEXT).text
    recipe = reader.answer("recipe", edits=sent)["answer"]["recipe"]
    assert reader.answer("check", recipe=recipe)["answer"]["edits"] == sent


@pytest.mark.parametrize("settings", [{}, DRAWN], ids=["greedy", "drawn"])
def test_a_fork_is_python_s_and_reads_nothing_twice(
    running: Serving, reader: Reader, plain: LM, settings: dict
) -> None:
    first, steps, last = written(reader, name="generate", text=TEXT, settings=settings, seed=4, max_new_tokens=12)
    out = plain.generate(TEXT, seed=4, max_new_tokens=12, **settings)
    lengths: list[int] = []
    decoder = running.lm.decoder
    hook = decoder.embed.register_forward_pre_hook(lambda module, given: lengths.append(given[0].ids.shape[1]))
    frames = reader.until(reader.ask(name="fork", generation=first["generation"], step=3, token=steps[3]["id"]))
    own, *own_steps, own_last = [frame["answer"] for frame in frames]
    hook.remove()
    assert lengths == [1] * 8  # steps 4 to 11: the new token of the one before is read
    prompt = len(first["prompt"])
    assert (own_steps[0]["held"], own_steps[0]["kept"]) == (prompt + 11, prompt + 3)
    assert own_last["text"] == last["text"] and [s["step"]["id"] for s in own_steps] == [s["id"] for s in steps]
    _, forked, fork_last = written(reader, name="fork", generation=own["generation"], step=5, token=77)
    expected = plain.fork(out, 5, 77)
    assert [s["id"] for s in forked] == list(expected.new_ids[0]) and fork_last["text"] == expected.text
    assert forked[5]["forced"] and not forked[4]["forced"]


def test_sampling_is_the_step_s_own(reader: Reader, plain: LM) -> None:
    first, _, _ = written(reader, name="generate", text=TEXT, settings=DRAWN, seed=4, max_new_tokens=6)
    out = plain.generate(TEXT, seed=4, max_new_tokens=6, **DRAWN)
    for index, step in enumerate(out.steps):
        about = {"generation": first["generation"], "step": index, "settings": DRAWN, "seed": 4}
        said = reader.answer("sampling", **about, count=300)["answer"]
        assert said["draw"]["id"] == int(step.ids[0]) and step.u is not None and said["draw"]["u"] == float(step.u[0])
        assert (said["draw"]["start"], said["draw"]["end"]) == step.interval()
        top = step.top(300)
        assert [c["id"] for c in said["candidates"]] == [c.id for c in top] and said["vocab"] == 300
        for mine, own in zip(said["candidates"], top, strict=True):
            assert (mine["model"], mine["scaled"], mine["final"]) == (own.prob_model, own.prob_scaled, own.prob)
            assert mine["removed_by"] == own.removed_by and mine["rank"] == own.rank
        stages = step.stages()
        assert [stage["name"] for stage in said["stages"]] == [name for name, _ in stages]
        assert [stage["left"] for stage in said["stages"]] == [int((x > -math.inf).sum()) for _, x in stages]
        sent = reader.answer("logits", generation=first["generation"], step=index)["arrays"]["logits"]
        assert torch.equal(sent, step.logits[0])


def test_the_curves_are_exact(reader: Reader, plain: LM) -> None:
    first, _, _ = written(reader, name="generate", text=TEXT, settings=DRAWN, seed=4, max_new_tokens=1)
    step = plain.generate(TEXT, seed=4, max_new_tokens=1, **DRAWN).steps[0]
    said = reader.answer("sampling", generation=first["generation"], step=0, settings=DRAWN, seed=4)["answer"]
    for name, logits in (("curve", step.logits[0]), ("final_curve", step.stages()[-1][1][0])):
        probs = logits[logits > -math.inf].double().softmax(-1).sort(descending=True).values
        ranks = torch.tensor(said[name]["rank"]) - 1
        assert torch.allclose(torch.tensor(said[name]["logprob"]).double(), probs.log()[ranks], atol=1e-5)
        assert torch.allclose(torch.tensor(said[name]["cumulative"]).double(), probs.cumsum(0)[ranks], atol=1e-6)
        assert ranks[0] == 0 and ranks[-1] == len(probs) - 1 and len(ranks) <= 512
    removed = {stage["name"]: stage for stage in said["stages"]}
    assert sum(stage["removed"] for stage in removed.values()) == 300 - said["stages"][-1]["left"]


def test_another_draw_is_that_of_generate(reader: Reader, plain: LM) -> None:
    """Of a run's position, the draw of a seed is the first token that `generate` draws."""
    settings = DRAWN | {"repetition_penalty": 1.0}
    first, _, _ = written(reader, name="generate", text=TEXT, max_new_tokens=2)
    for seed in range(5):
        about = {"generation": first["generation"], "step": 0, "settings": settings, "seed": seed}
        drawn = reader.answer("sampling", **about)["answer"]["draw"]["id"]
        assert drawn == plain.generate(TEXT, seed=seed, max_new_tokens=1, **settings).new_ids[0][0]
        second = reader.answer("sampling", **about, draw=3)["answer"]["draw"]["u"]
        assert second == float(plain.generate(TEXT, seed=seed, max_new_tokens=4, **settings).steps[3].u[0])  # type: ignore[index]


def test_a_run_s_choice_is_of_its_logits(reader: Reader, plain: LM) -> None:
    trace, name = plain.trace(TEXT, "logits"), reader.answer("run", text=TEXT)["answer"]["run"]
    sent = reader.answer("logits", run=name, position=2)["arrays"]["logits"]
    assert torch.equal(sent, trace["logits"][0, 2])
    said = reader.answer("sampling", run=name, position=2, settings={"do_sample": False})["answer"]
    assert said["draw"] == {"id": int(sent.argmax()), "text": plain.token_text(int(sent.argmax())), "seed": None}
    edits = [{"site": "logits", "op": "patch", "from": name, "from_position": 1, "position": -1}]
    _, steps, _ = written(reader, name="generate", text=TEXT, edits=edits, max_new_tokens=1)
    assert steps[0]["id"] == int(trace["logits"][0, 1].argmax())


def run_python(python: str) -> dict:
    """The names that it leaves, and "last": the value of a last line that is an expression."""
    *before, last = python.splitlines()
    names: dict = {}
    exec("\n".join(before), names)
    if last.startswith("out ="):
        exec(last, names)
    else:
        names["last"] = eval(last, names)
    return names


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "temperature": 1.5, "repetition_penalty": 1.3}])
def test_the_python_of_a_text_and_of_its_forks_writes_it(
    int8: LM, settings: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(int8)
    run = page("run", text=OTHER).data["run"]
    edits = [
        {"site": "blocks.0.attn.z", "op": "scale", "value": 3.0, "head": 1, "position": None},
        {"site": "blocks.1.resid_pre", "op": "patch", "from": run, "position": 1, "from_position": 2},
    ]
    first = page("generate", text=TEXT, settings=settings, edits=edits, max_new_tokens=6)  # no seed: one is drawn
    fork = page("fork", generation="g1", step=2, token=41, settings={"do_sample": True, "top_k": 90})
    again = page("fork", generation="g2", step=3, token=42, max_new_tokens=8)
    for answer, name in ((first, "g1"), (fork, "g2"), (again, "g3")):
        out, kept = run_python(answer.python)["out"], page.call.generations[name]
        assert out.text == answer.data["text"]
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(out.steps, kept.steps, strict=True))
        sent = page("logits", generation=name, step=4)
        assert torch.equal(run_python(sent.python)["last"], sent.arrays["logits"])
        asked = {"temperature": 0.5, "repetition_penalty": 1.2, "do_sample": True}
        choice = page("sampling", generation=name, step=4, settings=asked, seed=2)
        exec(choice.python, {})
        assert f"token {choice.data['draw']['id']} " in capsys.readouterr().out
    plain = int8.generate(TEXT, max_new_tokens=1).steps[0]
    assert not torch.equal(plain.logits, page.call.generations["g1"].steps[0].logits)
    of_run = page("generate", run=run, max_new_tokens=3)
    assert run_python(of_run.python)["out"].text == of_run.data["text"]


def test_the_python_of_an_answer_to_messages_writes_it(tmp_path: Path) -> None:
    tiny_lm("llama", tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    page = Page(load(tmp_path, quantize="int8", dtype="float32", device="cpu"))
    page("run", text=TEXT, chat=True)
    said = [{"role": "user", "content": "the \n cat"}, {"role": "assistant", "content": "sat"}]
    for asked in ({"messages": said}, {"text": TEXT, "chat": True}, {"run": "r1"}):
        answer = page("generate", max_new_tokens=3, **asked)
        assert run_python(answer.python)["out"].text == answer.data["text"]


def test_a_fork_refuses_what_generate_refuses_in_the_same_sentence(int8: LM) -> None:
    page = Page(int8)
    page("generate", text=TEXT, max_new_tokens=3)
    for settings in ({"top_p": 0}, {"topk": 3}, {"temperature": "hot"}):
        said = []
        for name, about in (("generate", {"text": TEXT}), ("fork", {"generation": "g1", "step": 1, "token": 40})):
            with pytest.raises(BadArgument) as error:
                page(name, settings=settings, **about)
            said.append(str(error.value))
        assert said[0] == said[1] and next(iter(settings)) in said[0]


def test_a_text_that_is_cancelled_is_kept_as_far_as_it_is_written(int8: LM) -> None:
    page = Page(int8)
    steps = writing.generate(page.call, text=TEXT, max_new_tokens=50)
    for _ in range(4):
        next(steps)
    planned = page.served.kept_bytes
    page.call.cancel()
    steps.close()
    kept = page.call.generations["g1"]
    assert len(kept.steps) == 3 and page.served.kept_bytes < planned / 4


def test_the_python_of_a_run_s_choice_gives_it(int8: LM, capsys: pytest.CaptureFixture[str]) -> None:
    page, settings = Page(int8), DRAWN | {"repetition_penalty": 1.3}
    edits = [{"site": "blocks.1.mlp_out", "op": "scale", "value": -2.0}]
    name = page("run", text=TEXT, edits=edits).data["run"]
    found = page("sampling", run=name, position=2, settings=settings, seed=4, draw=1)
    exec(found.python, {})
    printed, draw = capsys.readouterr().out, found.data["draw"]
    assert f"u = {draw['u']:.4f} falls in [{draw['start']:.4f}, {draw['end']:.4f}): token {draw['id']}" in printed
    names: dict[str, torch.Tensor] = {}
    sent = page("logits", run=name, position=2)
    *before, last = sent.python.splitlines()
    exec("\n".join(before), names)
    assert torch.equal(eval(last, names), sent.arrays["logits"])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"name": "generate", "text": ""}, "found an empty text"),
        ({"name": "generate", "text": "a" * 20_001}, "20,001 characters; expected 1 to 20,000 characters"),
        ({"name": "generate", "text": "a", "max_new_tokens": 513}, "max_new_tokens=513; expected at most 512"),
        ({"name": "generate", "text": "a", "max_new_tokens": 0}, "max_new_tokens=0; expected a whole number, 1"),
        ({"name": "generate", "text": "a", "settings": {"top_p": 0}}, "top_p=0; expected a number above 0"),
        ({"name": "generate", "text": "a", "settings": {"nope": 0}}, "the argument nope=0"),
        ({"name": "generate", "text": "a", "settings": {"max_length": 10**9}}, "max_length in settings"),
        ({"name": "generate", "text": "a", "run": "r1"}, "a prompt that is not one"),
        ({"name": "generate", "text": "a", "edits": [{"site": "x", "op": "function"}]}, "function with fn=None"),
        ({"name": "generate", "text": "a", "edits": "/etc/passwd"}, "edits of type str in generate"),
        ({"name": "generate", "text": "a", "edits": ["/etc/passwd"]}, "expected an edit with site, op"),
        ({"name": "generate", "text": "a", "chat": True}, "a model without a chat template"),
        ({"name": "fork", "generation": "g9", "step": 0, "token": 1}, "the generation 'g9'"),
        ({"name": "sampling"}, "found no choice"),
        ({"name": "sampling", "run": "r3", "position": 0}, "the run 'r3', which is none of this reader"),
        ({"name": "check", "recipe": "[1]"}, "expected an edit with site, op"),
        ({"name": "check", "recipe": "{"}, "the recipe, which cannot be read"),
        ({"name": "zebra"}, "the ask 'zebra'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(reader: Reader, asked: dict, says: str) -> None:
    said = reader.error(**asked)
    assert says in said and "\n" not in said and "bug" not in said
