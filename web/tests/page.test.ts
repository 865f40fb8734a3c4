import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Edit } from "../src/lib/answers";
import * as changes from "../src/lib/changes";
import { Page } from "../src/lib/page.svelte";
import type { Wire } from "../src/lib/wire";

const zero: Edit = { site: "blocks.1.attn.z", op: "zero", head: 2 };
const patch: Edit = { site: "blocks.1.resid_post", op: "patch", from: changes.OTHER, position: 1, from_position: 1 };
const listed = (edit: Edit) => [{ name: changes.said(edit), on: true, edit }];

/** A server that answers at once: a run's name says what ran, and its largest value is 2, of zeroed runs 1, of scaled ones 9. */
function served() {
  const asked: { ask: string; [argument: string]: unknown }[] = [];
  const answers: Record<string, (args: Record<string, unknown>) => object> = {
    hello: () => ({ answer: { example: "an example", model: { n_layers: 3, n_heads: 4 } } }),
    run: ({ text, edits }) => ({
      answer: { run: `${text}${edits ? ` ${JSON.stringify(edits)}` : ""}`, tokens: [1, 2, 3].map((id) => ({ id })), window: [0, 3] },
    }),
    values: ({ run }) => ({ answer: {}, tensors: { values: { shape: [2], data: Float32Array.of(1, /scale/.test(String(run)) ? 9 : /zero/.test(String(run)) ? 0.5 : 2) } } }),
  };
  const wire = {
    ask: async (ask: string, args: Record<string, unknown>) => (asked.push({ ask, ...args }), answers[ask]!(args)), cancel: () => {},
  };
  const ran = () => asked.filter((each) => each.ask === "run").map(({ text, edits }) => [text, ...((edits as Edit[]) ?? [])]);
  return { page: new Page(wire as unknown as Wire), ran, forget: () => asked.splice(0) };
}

beforeEach(() => {
  vi.stubGlobal("matchMedia", () => ({ matches: false, addEventListener: () => {} }));
  vi.stubGlobal("location", { hash: "#prompt=typed+and+run&otherPrompt=other" });
  vi.stubGlobal("sessionStorage", { getItem: () => null });
});

describe("a change", () => {
  it("is made, undone and made again to the prompt that was run, not to one that is typed", async () => {
    const { page, ran, forget } = served();
    await page.start();
    page.prompt = "typed, never run";
    forget();
    await page.change("zero", listed(zero));
    await page.travel(0);
    await page.travel(1);
    expect(ran()).toEqual([["typed and run", zero], ["typed and run", zero]]);
    expect([page.ran, page.prompt]).toEqual(["typed and run", "typed, never run"]);
    await page.send();
    expect(page.ran).toBe("typed, never run");
  });

  it("is drawn on the original's scale, which grows where its values go beyond", async () => {
    const { page } = served();
    await page.start();
    const { scale } = await page.values("logits");
    await page.change("zero", listed(zero));
    expect((await page.values("logits")).scale).toEqual(scale);
    await page.change("scale", listed({ ...zero, op: "scale", value: 9 }));
    expect((await page.values("logits")).scale).toEqual({ ...scale, largest: 9 });
    await page.travel(0);
    expect((await page.values("logits")).scale).toEqual(scale);
  });

  it("to one prompt is not undone in the other: swapped prompts begin a new list", async () => {
    const { page } = served();
    await page.start();
    await page.change("zero", listed(zero));
    await page.swap();
    expect([page.ran, page.otherPrompt, page.edits]).toEqual(["other", "typed and run", []]);
    await page.travel(page.history.now - 1);
    expect([page.ran, page.edits]).toEqual(["other", []]);
  });
});

describe("another text", () => {
  it("begins at the first draw of the seed; the same text stays at its own", async () => {
    const { page } = served();
    await page.start();
    page.views.draw = "3";
    await page.send();
    expect(page.fragment).toContain("&views=draw.3");
    page.prompt = "a new one";
    await page.send();
    expect(page.fragment).not.toContain("draw");
  });
});

describe("a patch", () => {
  it("takes its value from the text that ran as A, whatever is typed there since", async () => {
    const { page, ran, forget } = served();
    await page.start();
    await page.runOther();
    [page.second, page.otherPrompt] = ["for the batch", "typed later"];
    forget();
    await page.change("patch", listed(patch));
    expect(ran()).toEqual([["typed and run", { ...patch, from: "other" }]]);
    expect(page.fragment).toContain("&second=for+the+batch&otherPrompt=other&");
    await page.send();
    expect(ran().slice(1).map(([text]) => text)).toEqual(["typed and run", "other", "typed and run"]);
    await page.runOther();
    await page.send(false);
    expect(ran().at(-1)).toEqual(["typed and run", { ...patch, from: "typed later" }]);
  });
});

describe("another address", () => {
  it("is the whole state: nothing of the one before stays", async () => {
    const { page, ran } = served();
    await page.start();
    await page.change("zero", listed(zero));
    const set = { second: "b", otherPrompt: "c", open: [], pinned: [], seed: 7, lesson: 3, views: { heads: "induction" }, settings: { top_k: 5 } };
    Object.assign(page, set, { guesses: [" mat"], panel: "eight", answer: { id: 3, text: " a" } });
    page.focus.open("logits", [1, 2]);
    page.restore({ prompt: "a new one" });
    await page.send();
    expect(page.fragment).toBe("prompt=a+new+one&focus=t2&open=1");
    expect(ran().at(-1)).toEqual(["a new one"]);
    page.restore({});
    expect(page.prompt).toBe("an example");
  });

  it("brings its own number, focus and guesses with another prompt", async () => {
    const { page } = served();
    await page.start();
    page.restore({ prompt: "a new one", site: "logits", index: [1, 2], focus: "t1", guesses: [" mat"] });
    await page.send();
    expect([page.focus.site, page.focus.token, page.guesses]).toEqual(["logits", 1, [" mat"]]);
    page.prompt = "a third";
    await page.send();
    expect([page.focus.site, page.guesses]).toEqual([null, []]);
  });
});
