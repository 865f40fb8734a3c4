import { describe, expect, it } from "vitest";
import { align, beside } from "../src/lib/align";

const pairs = (a: number[], b: number[]) => align(a, b).map(({ a: i, b: j, same }) => [i, j, same]);

describe("two prompts", () => {
  it("of one changed word stand column under column", () => {
    expect(pairs([1, 2, 3], [1, 9, 3])).toEqual([[0, 0, true], [1, 1, false], [2, 2, true]]);
  });

  it("whose word has more tokens leave gaps, so that the rest stands together", () => {
    const columns = pairs([5, 2, 3, 4], [5, 8, 9, 3, 4]);
    expect(columns).toEqual([[0, 0, true], [1, 1, false], [null, 2, false], [2, 3, true], [3, 4, true]]);
    expect(beside(align([5, 2, 3, 4], [5, 8, 9, 3, 4]), 3)).toBe(4);
  });

  it("keep the longest common part, not the first", () => {
    expect(align([1, 2, 3, 4], [4, 1, 2, 3]).filter((each) => each.same)).toHaveLength(3);
  });

  it("with two words swapped stand position by position", () => {
    expect(align([1, 2, 3, 4, 5, 6], [1, 4, 3, 2, 5, 6]).map(({ a, b, same }) => [a === b, same])).toEqual(
      [true, false, true, false, true, true].map((same) => [true, same]),
    );
  });

  it("may have nothing in common, or be empty", () => {
    expect(pairs([1], [2, 3])).toEqual([[0, 0, false], [null, 1, false]]);
    expect(pairs([], [7])).toEqual([[null, 0, false]]);
    expect(align([], [])).toEqual([]);
  });
});
