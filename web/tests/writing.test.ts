import { describe, expect, it } from "vitest";
import { cosines, largest, length, respelled, standing } from "../src/panels/lesson/measures";
import { rewinding, strength } from "../src/stages/writing/words";
import { Text } from "../src/lib/writing.svelte";

describe("a fork's cache", () => {
  const token = (id: number) => ({ id, text: "a", bytes: [], start: null, end: null, special: false });
  const forked = (held: number, kept: number) => {
    const text = new Text({}, 0, 9, { parent: new Text({}, 0, 9, null), step: 2 });
    text.take({ generation: "g2", prompt: [token(7), token(8)] });
    text.take({ held, kept });
    return text.cache!;
  };
  it("is what the server did with it", () => {
    expect(forked(5, 4)).toEqual({ held: 5, kept: 4, again: 0 });
    expect(rewinding(forked(5, 4))).toMatch(/^The cache held 5 tokens; it was rewound to 4, not recomputed\.$/);
    expect(rewinding(forked(5, 2))).toMatch(/rewound to 2.*2 tokens after them .* read again\.$/);
    expect(rewinding(forked(5, 0))).toBe("The cache held nothing that could be kept: 4 tokens were read again.");
  });
});

describe("the lesson reads", () => {
  it("lengths and angles", () => {
    const matrix = { data: Float32Array.of(3, 4, 0, 5, -3, -4, 0, 0), shape: [4, 2] };
    expect(length(matrix.data.subarray(0, 2))).toBe(5);
    const [own, next, against, none] = cosines(matrix, 0);
    expect([own, next, against]).toEqual([1, 0.8, -1].map((x) => expect.closeTo(x, 12)));
    expect(none).toBe(0);
  });
  it("a token's rank and probability among all logits, however large they are", () => {
    const { prob, rank } = standing(Float32Array.of(1000, 1002, 1000, 990), 2);
    expect(rank).toBe(2);
    expect(prob).toBeCloseTo(1 / (2 + Math.exp(2) + Math.exp(-10)), 6);
    expect([[NaN, 1, 3, 3], [2, NaN, 1], [NaN, NaN]].map(largest)).toEqual([2, 0, 0]);
  });
  it("the sentence in other letters, whatever letters it has", () => {
    expect(respelled("The sun")).toEqual({ text: "THE SUN", how: "in CAPITALS" });
    expect(respelled("THE SUN").text).toBe("the sun");
    expect(respelled("12 + 3").text).toBe("12+3");
  });
  it("probabilities as strengths of a colour that text is readable on", () => {
    expect([0, 1, 2, -1].map(strength)).toEqual([0, 0.5, 0.5, 0]);
  });
});
