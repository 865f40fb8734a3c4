import { describe, expect, it } from "vitest";
import { headAt, placeOf, places, sorted } from "../src/stages/attention/heads";
import { factorWords, mixed, softmaxParts } from "../src/stages/attention/row";
import { largest, named, signed } from "../src/stages/residual/parts";

describe("heads", () => {
  it("are sorted by score, those without one last, equals in order", () => {
    expect(sorted(new Float32Array([0.5, NaN, 0.9, 0.5, NaN]))).toEqual([2, 0, 3, 1, 4]);
  });

  it.each([["layer", 1300], ["layer", 350], ["previous", 350]] as const)("each have one place, by %s in %i pixels", (order, width) => {
    const inOrder = sorted(Float32Array.from({ length: 270 }, (_, i) => Math.sin(i)));
    const at = places(order, 30, 9, width);
    expect(at.columns * at.wide).toBeLessThanOrEqual(width + at.wide);
    for (let head = 0; head < 270; head++) {
      const { column, row } = placeOf(at, inOrder, 9, head);
      expect(headAt(at, inOrder, 9, column, row)).toBe(head);
    }
    expect(headAt(at, inOrder, 9, at.columns, 0)).toBeNull();
  });

  it("stand as blocks across where there is room, else as heads across", () => {
    expect(places("layer", 30, 9, 1300).along).toBe("layers");
    expect(places("layer", 30, 9, 350)).toMatchObject({ along: "heads", columns: 9, rows: 30 });
    expect(places("layer", 3, 1, 350)).toMatchObject({ along: "layers", columns: 3, rows: 1 });
  });
});

describe("a row's steps", () => {
  it("name the factor of the scores", () => {
    expect(factorWords(0.125, 64, String)).toBe("÷ √64");
    expect(factorWords(1, 64, String)).toBe("× 1");
  });

  it("say what softmax divides by", () => {
    const { largest, sum } = softmaxParts(new Float32Array([2, 1, -Infinity]), null);
    expect([largest, sum]).toEqual([2, 1 + Math.exp(-1)]);
    expect(softmaxParts(new Float32Array([2, -Infinity]), 3)).toEqual({ largest: 3, sum: 1 + Math.exp(-1) });
  });

  it("mix the strongest, all the others in one row, then z", () => {
    const v = new Float32Array([1, 0, 0, 1, 2, 2]);
    const { rows, others, values } = mixed(new Float32Array([0.25, 0.5, 0.25]), v, new Float32Array([0.75, 1]), 1);
    expect([rows, others, [...values]]).toEqual([[1], 2, [0, 0.5, 0.75, 0.5, 0.75, 1]]);
  });
});

describe("the parts of a logit", () => {
  it("are named with their place in the model", () => {
    const word = (i: number) => ["The", "␣cat"][i] ?? "";
    expect(named("blocks.23.attn head 4", word)).toEqual({ words: "block 23 head 4", layer: 23, head: 4 });
    expect(named("blocks.2.attn from 1", word)).toEqual({ words: "block 2 from ␣cat", layer: 2, token: 1 });
    expect(named("blocks.2.mlp.post[17]", word)).toEqual({ words: "block 2 neuron 17", layer: 2, neuron: 17 });
    expect(named("blocks.2.attn_out: bias", word)).toEqual({ words: "block 2 attention, bias and rounding", layer: 2 });
    expect(named("blocks.0.mlp_out", word).words).toBe("block 0 MLP");
    expect(named("rounding of the head", word)).toEqual({ words: "rounding of the head" });
  });

  it("sum to the whole, whatever is drawn", () => {
    const parts = [1, -5, 0.25, 3].map((gives, i) => ({ part: String(i), gives }));
    const drawn = largest(parts, 2);
    expect(drawn.parts.map((each) => each.gives)).toEqual([-5, 3]);
    expect([drawn.more, drawn.rest, drawn.sum]).toEqual([2, 1.25, -0.75]);
    expect([signed(-0.756), signed(13.691)]).toEqual(["−0.76", "+13.69"]);
  });
});
