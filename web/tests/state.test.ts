import { describe, expect, it } from "vitest";
import { nothing, read, write } from "../src/lib/address";
import { shortened } from "../src/lib/text";
import { words } from "../src/lib/words";
import { steps } from "../src/stages/text/merging";

describe("the address", () => {
  it("restores what it wrote", () => {
    const state = {
      prompt: "naïve & 50 % #1\n→", second: "b", otherPrompt: "c", open: [1, 4], pinned: [4], focus: "t3.l2.h5", site: "blocks.2.attn.q", index: [3, 5, 7],
      panel: "lesson", answer: " Mary", against: "␣", views: { heads: "induction", first: "grey" }, edits: [{ site: "blocks.9.attn.z", op: "zero", head: 9 }], settings: { temperature: 0.7 }, seed: 42,
    };
    expect(read(`#${write(state)}`)).toEqual(state);
  });

  it("that says nothing is none, and says that no stage is open", () => {
    expect(write(nothing())).toBe("open=1");
    expect(read("open=0")).toEqual({ open: [] });
    expect(read(write({ ...nothing(), open: [] }))).toEqual({ open: [] });
  });

  it("leaves out what is none", () => {
    const hostile = "#open=1.x&index=-1&seed=1e9&edits=[1,{%22op%22:2}]&settings=[]&focus=&prompt=a";
    expect(read(hostile)).toEqual({ prompt: "a", edits: [] });
    expect(read("#edits={broken&views=heads.%3Cb%3E")).toEqual({});
    expect(write({ prompt: "a", views: { first: "" } })).toBe("prompt=a");
  });
});

describe("merges", () => {
  it("are replayed from the characters on, equal ones from the left", () => {
    const merge = (left: string, right: string, rank: number) => ({ left, right, result: left + right, rank, piece: 0 });
    const found = steps([merge("a", "b", 1), merge("a", "b", 1), merge("ab", "ab", 9)]);
    expect(found.map((step) => step.parts.join(" "))).toEqual(["a b a b", "ab a b", "ab ab", "abab"]);
    expect(found.map((step) => step.made)).toEqual([-1, 0, 1, 0]);
  });
});

describe("a long token", () => {
  it("loses its middle", () => {
    expect(shortened("internationalization", 9)).toBe("inte…tion");
    expect(shortened("short", 9)).toBe("short");
  });
});

describe("words of a sentence", () => {
  it("that stand twice have their positions", () => {
    const tokens = [" John", " and", " John"].map((text, id) => ({ id, text }));
    expect(words(tokens)).toEqual(["␣John (0)", "␣and", "␣John (2)"]);
  });
});
