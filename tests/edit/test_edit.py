"""Every operation at every site of every family, against the formulas; and every edit that cannot be done, refused."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway import Edit
from cutaway.ground.errors import BadArgument
from cutaway.ground.sites import all_sites
from cutaway.model.decoder import Decoder
from cutaway.text.pieces import Tokens
from cutaway.trace.run import run
from cutaway.trace.trace import Trace
from tests.explain.by_formula import FAMILIES, TOKENS, after
from tests.tiny import decoder

ROW, POSITION = 1, 2  # the text and the position that are edited; no padding, in the middle
OTHER = Tokens.from_ids([[6, 2, 8, 8, 5, 1]])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return decoder(request.param, tmp_path_factory.mktemp("model"), torch.float64)


@pytest.fixture(scope="module")
def plain(model: Decoder) -> Trace:
    return run(model, TOKENS)


def at(shape: str) -> tuple:
    """The edited elements of a value: of scores and pattern, all sources up to the position."""
    return (ROW, slice(None), POSITION, slice(0, POSITION + 1)) if shape == "B H T S" else (ROW, POSITION)


def check(model: Decoder, plain: Trace, site: str, edit: Edit, by_hand: Callable[[Tensor], Tensor]) -> None:
    """The edited pass against the formulas, started from the value that by_hand gives for the edited elements."""
    shape = all_sites(model.config)[site].shape
    changed = plain[site].clone()
    changed[at(shape)] = by_hand(plain[site][at(shape)])
    expected = after(dict(plain), site, changed, model, TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a first position's pattern is 1 and stays so under some operations
        edited = run(model, TOKENS, edits=[edit])
    for name, value in expected.items():
        torch.testing.assert_close(edited[name], value, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


SITES = [
    "embed.token", "embed.position", "embed.projected", "blocks.1.resid_pre", "blocks.1.ln1.scale",
    "blocks.1.ln1.normalized", "blocks.1.ln1.out", "blocks.1.attn.q", "blocks.1.attn.k", "blocks.1.attn.v",
    "blocks.1.attn.rot_q", "blocks.1.attn.rot_k", "blocks.1.attn.scores", "blocks.1.attn.pattern", "blocks.1.attn.z",
    "blocks.1.attn_out", "blocks.1.resid_mid", "blocks.1.ln2.scale", "blocks.1.ln2.normalized", "blocks.1.ln2.out",
    "blocks.1.mlp.pre", "blocks.1.mlp.pre_linear", "blocks.1.mlp.post", "blocks.1.mlp_out", "blocks.1.resid_post",
    "ln_final.scale", "ln_final.normalized", "ln_final.out", "logits",
]  # fmt: skip


def test_the_list_of_sites_is_whole(model: Decoder):
    here = {name for name in all_sites(model.config) if not name.startswith(("blocks.0.", "blocks.2."))}
    assert here <= set(SITES)


@pytest.mark.parametrize("site", SITES)
def test_every_operation_equals_the_formulas(model: Decoder, plain: Trace, site: str):
    if site not in plain:
        pytest.skip("this model has no such value")
    where = {"text": ROW, "position": POSITION}
    shape = all_sites(model.config)[site].shape
    here = plain[site][at(shape)]
    wanted = here * 0.5 + 0.25
    value = wanted if shape != "B H T S" else torch.cat((wanted, torch.zeros(*wanted.shape[:-1], 3)), -1)
    other = run(model, OTHER)
    from_other = other[site][(0, *at(shape)[1:])]
    check(model, plain, site, Edit.set(site, value, **where), lambda x: wanted)
    check(model, plain, site, Edit.add(site, 0.75, **where), lambda x: x + 0.75)
    check(model, plain, site, Edit.scale(site, -0.5, **where), lambda x: x * -0.5)
    if "scale" not in site:  # a divisor of 0 is no pass at all
        check(model, plain, site, Edit.zero(site, **where), torch.zeros_like)
    check(model, plain, site, Edit.patch(site, other, **where), lambda x: from_other)
    check(model, plain, site, Edit.function(site, lambda x: x.tanh(), **where), torch.tanh)
    if shape == "B H T S":
        return
    check(model, plain, site, Edit.mean(site, **where), lambda x: plain[site][ROW].mean(0))
    of_all = plain[site][TOKENS.mask.bool()].mean(0)
    check(model, plain, site, Edit.mean(site, plain, **where), lambda x: of_all)
    if here.shape[-1] > 1:
        direction = torch.linspace(1, 2, here.shape[-1], dtype=here.dtype)
        unit = direction / direction.square().sum().sqrt()
        edit = Edit.project_out(site, direction.tolist(), **where)
        check(model, plain, site, edit, lambda x: x - (x @ unit)[..., None] * unit)


def one(model: Decoder, edit: Edit, site: str, tokens: Tokens = TOKENS) -> Tensor:
    return run(model, tokens, site, edits=[edit])[site]


def test_a_head_a_neuron_a_source_and_a_block_are_found(model: Decoder, plain: Trace):
    z = one(model, Edit.zero("blocks.1.attn.z", head=2), "blocks.1.attn.z")
    expected = plain["blocks.1.attn.z"].clone()
    expected[0, :5, 2], expected[1, :, 2] = 0, 0  # padding is left as it is
    torch.testing.assert_close(z, expected)
    post = one(model, Edit.set("blocks.1.mlp.post", 3.0, neuron=(1, 7), position=-1), "blocks.1.mlp.post")
    expected = plain["blocks.1.mlp.post"].clone()
    expected[0, 4, [1, 7]], expected[1, 5, [1, 7]] = 3.0, 3.0  # the last position of each text
    torch.testing.assert_close(post, expected)
    pattern = one(model, Edit.zero("blocks.0.attn.pattern", source=0, head=(0, 3)), "blocks.0.attn.pattern")
    expected = plain["blocks.0.attn.pattern"].clone()
    expected[0, [0, 3], :5, 0], expected[1, [0, 3], :, 0] = 0, 0
    torch.testing.assert_close(pattern, expected)
    edit = Edit.zero("blocks.*.attn_out", block=(0, 2))
    edited = run(model, TOKENS, edits=[edit])
    zeros = [not edited[f"blocks.{i}.attn_out"][1].any() for i in range(3)]
    assert zeros == [True, False, True]


def test_a_value_of_several_indexes_broadcasts_by_axis(model: Decoder, plain: Trace):
    value = torch.arange(2 * 2 * plain["blocks.1.attn.z"].shape[-1], dtype=torch.float64).reshape(2, 2, -1)
    edit = Edit.set("blocks.1.attn.z", value, head=(3, 1), position=(4, 0), text=0)
    z = one(model, edit, "blocks.1.attn.z")
    for i, position in enumerate((4, 0)):
        for j, head in enumerate((3, 1)):
            assert torch.equal(z[0, position, head], value[i, j])
    torch.testing.assert_close(z[1], plain["blocks.1.attn.z"][1])


def test_a_position_is_the_texts_own_whatever_the_padding(model: Decoder):
    left = Tokens.from_ids([[0, 3, 5, 7, 2, 9]], [[0, 1, 1, 1, 1, 1]])
    alone = Tokens.from_ids([[3, 5, 7, 2, 9]])
    edit = [Edit.add("blocks.0.resid_pre", 1.0, position=3)]
    padded, single = run(model, left, "logits", edits=edit), run(model, alone, "logits", edits=edit)
    torch.testing.assert_close(padded["logits"][:, 1:], single["logits"])


def test_a_patch_of_a_whole_text_gives_that_texts_logits(model: Decoder):
    clean, corrupt = Tokens.from_ids([[6, 2, 8, 8]]), Tokens.from_ids([[1, 2, 3, 4], [4, 3, 2, 1]])
    of_clean = run(model, clean)
    for site in ("blocks.0.resid_pre", "blocks.2.resid_post"):
        patched = run(model, corrupt, "logits", edits=[Edit.patch(site, of_clean)])["logits"]
        torch.testing.assert_close(patched, of_clean["logits"].expand_as(patched))


def test_edits_act_in_their_order(model: Decoder, plain: Trace):
    site = "blocks.0.mlp_out"
    twice = run(model, TOKENS, site, edits=[Edit.add(site, 1.0), Edit.scale(site, 2.0)])[site]
    torch.testing.assert_close(twice[1], (plain[site][1] + 1) * 2)


def test_a_function_that_writes_into_its_value_spoils_no_other(model: Decoder, plain: Trace):
    edit = Edit.function("blocks.0.resid_mid", lambda x: x.zero_(), position=5, text=1)
    edited = run(model, TOKENS, edits=[edit])
    torch.testing.assert_close(edited["blocks.0.resid_mid"][1, :5], plain["blocks.0.resid_mid"][1, :5])
    torch.testing.assert_close(edited["blocks.0.attn_out"], plain["blocks.0.attn_out"])


def test_an_edit_that_changes_nothing_says_so(model: Decoder):
    with pytest.warns(UserWarning, match=r"scale 1 on blocks.0.mlp_out changed nothing"):
        run(model, TOKENS, edits=[Edit.scale("blocks.0.mlp_out", 1.0)])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Edit.zero("blocks.9.attn.z"), "no site 'blocks.9.attn.z'"),
        (lambda: Edit.zero("blocks.*.attn.z", block=7), "block 7"),
        (lambda: Edit.zero("blocks.0.attn.z", head=4), "head 4 .*at most 3"),
        (lambda: Edit.zero("blocks.0.mlp.post", head=1), r"head=1 for blocks.0.mlp.post \[B T F\]"),
        (lambda: Edit.zero("blocks.0.attn.z", source=1), "source=1"),
        (lambda: Edit.zero("blocks.0.attn.pattern", neuron=1), "neuron=1"),
        (lambda: Edit.zero("blocks.0.mlp.post", neuron=10**6), "neuron 1000000"),
        (lambda: Edit.zero("logits", text=2), "text 2"),
        (lambda: Edit.zero("logits", position=5), "position 5 .*at most 4"),
        (lambda: Edit.zero("logits", position=-6), "position -6"),
        (lambda: Edit.zero("logits", position=6, text=1), "position 6"),
        (lambda: Edit.zero("logits", step=1), "step 1"),
        (lambda: Edit.set("logits", torch.zeros(12)), r"a value \[12\] .*B T V"),
        (lambda: Edit.set("logits", torch.zeros(3, 11), position=(0, 1)), r"a value \[3, 11\]"),
        (lambda: Edit.project_out("blocks.0.mlp_out", [1.0, 2.0]), "a direction"),
        (lambda: Edit.function("logits", lambda x: x[..., :1]), "a function for logits"),
    ],
)
def test_an_edit_that_cannot_be_done_is_refused(model: Decoder, make: Callable[[], Edit], words: str):
    with pytest.raises(BadArgument, match=words):
        run(model, TOKENS, edits=[make()])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Edit("logits", "double"), "the operation 'double'"),  # type: ignore[arg-type]
        (lambda: Edit("logits", "add"), "add without a value"),
        (lambda: Edit("logits", "zero", 3.0), "zero with a value"),
        (lambda: Edit("logits", "function"), "function with fn=None"),
        (lambda: Edit.zero("logits", position="last"), "position='last'"),
        (lambda: Edit.zero("logits", head=-1), "head=-1"),
        (lambda: Edit.zero("logits", head=[]), "head="),
        (lambda: Edit.zero("logits", head=[1, 1]), "head="),
        (lambda: Edit.set("logits", "loud"), "no tensor"),
    ],
)
def test_an_edit_that_says_nothing_clear_is_refused_when_it_is_made(make: Callable[[], Edit], words: str):
    with pytest.raises(BadArgument, match=words):
        make()


def test_an_edit_that_is_never_reached_is_told(model: Decoder):
    with pytest.raises(BadArgument, match="never reached"):
        run(model, TOKENS, "blocks.0.attn_out", edits=[Edit.zero("blocks.2.mlp_out")])


def test_a_patch_needs_a_trace_that_holds_the_site_and_the_position(model: Decoder, plain: Trace):
    with pytest.raises(BadArgument, match="texts of one length"):
        Edit.patch("logits", plain)
    with pytest.raises(BadArgument, match="position 5 of text 0"):
        Edit.patch("logits", plain, position=5)
    with pytest.raises(BadArgument, match="no 'logits' in this trace"):
        Edit.patch("logits", run(model, OTHER, "embed.token"))
    with pytest.raises(BadArgument, match="whole texts"):
        Edit.patch("logits", run(model, OTHER, "logits", positions=-1))
