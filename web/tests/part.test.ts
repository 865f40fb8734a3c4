import { describe, expect, it } from "vitest";
import { element, exact, part } from "../src/lib/part";

const tensor = { data: Float32Array.from({ length: 24 }, (_, i) => i), shape: [2, 3, 4] };

describe("a part of an array", () => {
  it("is the row of the one whole axis, wherever it stands", () => {
    expect([...part(tensor, [1, 2, null]).values]).toEqual([20, 21, 22, 23]);
    const middle = part(tensor, [1, null, 3]);
    expect([...middle.values]).toEqual([15, 19, 23]);
    expect(middle.indexOf(0, 2)).toEqual([1, 2, 3]);
  });

  it("of several whole axes has the last as columns", () => {
    const both = part(tensor, [null, 1, null]);
    expect([both.rows, both.columns, ...both.values]).toEqual([2, 4, 4, 5, 6, 7, 16, 17, 18, 19]);
    expect(both.indexOf(1, 2)).toEqual([1, 1, 2]);
    expect(part(tensor, [null, null, null]).indexOf(5, 3)).toEqual([1, 2, 3]);
  });
});

describe("an element's name", () => {
  it("gives its site and index, and other words none", () => {
    expect(element("blocks.3.attn.z[0, 7, 2, 11]")).toEqual({ site: "blocks.3.attn.z", index: [7, 2, 11] });
    for (const other of ["ids[0, 3]x", "W_Q[3, i]", "(ln_final.out @ W_out.T)[0, 1, 2]", "blocks.0.attn.k[1, 3]"])
      expect(element(other)).toBeNull();
  });

  it("has every digit of a float32", () => {
    expect(exact(Math.fround(0.1))).toBe("0.100000001");
    expect(Math.fround(Number(exact(Math.fround(1 / 3))))).toBe(Math.fround(1 / 3));
    expect(exact(-Infinity)).toBe("-Infinity");
  });
});
