"""`cutaway tour` on a tiny model: the stages in order, the text, --json, and what it refuses."""

import json
from pathlib import Path


def test_the_tour_shows_every_stage_and_the_text(cutaway, tiny_folder: Path):
    done = cutaway("tour", "the cat sat", "--model", tiny_folder, "--max-new-tokens", 4)
    assert done.code == 0, done.err
    titles = ["Tokens", "The model", "The embedding", "The positions", "Inside block 0: head 0",
              "The residual stream", "The logits", "The draw, and the text"]  # fmt: skip
    offsets = [done.out.index(f" {number} ") and done.out.index(title) for number, title in enumerate(titles, 1)]
    assert offsets == sorted(offsets)
    assert max(map(len, done.out.splitlines())) <= 80
    assert "the cat sat" in done.out


def test_json_holds_the_same_stages(cutaway, tiny_folder: Path):
    done = cutaway("tour", "the cat", "the dog ran", "--model", tiny_folder, "--block", 1, "--head", 2, "--json")
    data = json.loads(done.out)
    assert [stage["number"] for stage in data["stages"]] == list(range(1, 9))
    assert data["stages"][0]["data"]["tokens"]["mask"][0][-1] == 0  # padded
    assert data["stages"][4]["data"]["block"] == 1 and data["stages"][4]["data"]["head"] == 2
    assert len(data["stages"][7]["data"]["texts"]) == 2


def test_the_same_seed_writes_the_same_text_and_another_may_not(cutaway, tiny_folder: Path):
    words = ["tour", "the cat", "--model", tiny_folder, "--json", "--temperature", 3.0]
    one, again, other = (cutaway(*words, "--seed", seed).out for seed in (1, 1, 2))
    assert one == again and one != other


def test_a_block_that_is_not_there_is_one_sentence(cutaway, tiny_folder: Path):
    done = cutaway("tour", "the cat", "--model", tiny_folder, "--block", 7)
    assert (done.code, done.out) == (2, "")
    assert done.err == "cutaway: found --block 7; expected 0 to 1; choose a block that this model has.\n"
