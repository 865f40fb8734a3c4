import { describe, expect, it } from "vitest";
import * as changes from "../src/lib/changes";
import { ofExpert, offers } from "../src/panels/change/parts";

const zero = { site: "blocks.9.attn.z", op: "zero", head: 9 };
const half = { site: "blocks.2.mlp.post", op: "scale", value: 0.5, neuron: [3, 4], position: -1 };
const named = (edit: typeof zero, on = true) => ({ name: changes.said(edit), on, edit });

describe("changes", () => {
  it("are undone and done again, and a new one drops what was undone", () => {
    let history = changes.begun();
    history = changes.done(history, "first", [named(zero)]);
    history = changes.done(history, "second", [named(zero), { name: "x", on: true, edit: half }]);
    history = changes.at(history, history.now - 1);
    expect(changes.active(history)).toEqual([zero]);
    expect(changes.active(changes.at(history, history.now + 1))).toEqual([zero, half]);
    history = changes.done(history, "other", []);
    expect(history.moments.map((each) => each.did)).toEqual(["Nothing changed", "first", "other"]);
    expect(changes.at(history, 3)).toBe(history);
    expect(changes.at(history, -1)).toBe(history);
  });

  it("that are off do not act, and stand in the address with their names", () => {
    const list = [{ name: "the induction head", on: false, edit: zero }, { name: changes.said(half), on: true, edit: half }];
    expect(changes.active(changes.begun(list))).toEqual([half]);
    expect(changes.fromAddress(JSON.parse(JSON.stringify(changes.asAddress(list))))).toEqual(list);
  });

  it("say what they do as Python does", () => {
    expect(changes.said(zero)).toBe("zero on blocks.9.attn.z at head 9");
    expect(changes.said(half)).toBe("scale 0.5 on blocks.2.mlp.post at neuron 3, 4, position -1");
    expect(changes.said({ site: "a", op: "set", value: [[1, 2, 3], [4, 5, 6]] })).toBe("set [2, 3] on a");
  });

  it("forbid an expert by its logit, and force or reweigh it by its score", () => {
    const forbid = { ...ofExpert("forbid", "1", 0.5), expert: 3 };
    expect(forbid).toEqual({ site: "blocks.1.mlp.router_logits", op: "set", value: "-inf", expert: 3 });
    expect(changes.said(forbid)).toBe("set -inf on blocks.1.mlp.router_logits at expert 3");
    expect(ofExpert("force", "1", 0.5)).toEqual({ site: "blocks.1.mlp.router_scores", op: "set", value: 0.5 });
    expect(ofExpert("scale", "1", 0.5)).toEqual({ site: "blocks.1.mlp.router_scores", op: "scale", value: 0.5 });
    const place = { token: null, layer: null, head: null } as Parameters<typeof offers>[0];
    const [found] = offers(place, { site: "blocks.1.mlp.router_scores", index: [4, 3] }, { op: "zero" });
    const [neuron] = offers(place, { site: "blocks.1.mlp.post", index: [4, 3, 7] }, { op: "zero" });
    expect(neuron!.edit).toEqual({ site: "blocks.1.mlp.post", op: "zero", expert: 3, neuron: 7 });
    expect(found).toEqual({ words: "expert 3 of block 1", edit: { site: "blocks.1.mlp.router_scores", op: "zero", expert: 3 } });
  });

  it("take a patch from the run that the other prompt has now", () => {
    const patch = { site: "blocks.1.resid_post", op: "patch", from: changes.OTHER, position: 3, from_position: 4 };
    expect(changes.sent([patch, zero], "r7")).toEqual([{ ...patch, from: "r7" }, zero]);
    expect(changes.said(patch)).toContain("from the other prompt, position 4 there");
  });
});
