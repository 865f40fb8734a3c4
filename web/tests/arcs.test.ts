import { describe, expect, it } from "vitest";
import { named, starts, strongest, whole, within, wordAt, zoomedAt } from "../src/stages/attention/arcs";

// Rows read, columns are read; above the diagonal nothing.
const pattern = new Float32Array([
  1, 0, 0,
  0.75, 0.25, 0,
  0.5, 0.125, 0.375,
]);
const places = (arcs: { from: number; to: number }[]) => arcs.map(({ from, to }) => `${from}>${to}`);

describe("the arcs that are drawn", () => {
  it("are the strongest, the largest last, and the rest is counted and weighed", () => {
    const { arcs, total, left, leftWeight, weight } = strongest(pattern, 3, { most: 3, least: 0 });
    expect(places(arcs)).toEqual(["2>0", "1>0", "0>0"]);
    expect([total, left, leftWeight, weight]).toEqual([6, 3, 0.75, 3]);
  });

  it("are none below the least weight", () => {
    const { arcs, left, leftWeight } = strongest(pattern, 3, { most: 99, least: 0.3 });
    expect([arcs.length, left, leftWeight]).toEqual([4, 2, 0.375]);
  });

  it("leave a greyed first position out of the choice, and say its weight", () => {
    const { arcs, total, left, leftWeight, greyed, weight } = strongest(pattern, 3, { most: 1, least: 0, withoutFirst: true });
    expect(places(arcs)).toEqual(["2>2"]);
    expect([total, left, leftWeight, greyed, weight]).toEqual([3, 2, 0.375, 2.25, 3]);
  });

  it("can be those of one row", () => {
    const { arcs, weight } = strongest(pattern, 3, { most: 9, least: 0, rows: [1, 2] });
    expect([places(arcs), weight]).toEqual([["1>1", "1>0"], 1]);
  });

  it("are at most so many among equals, and no NaN", () => {
    const found = strongest(Float32Array.from({ length: 10_000 }, (_, i) => (i === 5 ? NaN : 0.25)), 100, { most: 10, least: 0 });
    expect([found.arcs.length, found.left, found.nan]).toEqual([10, 9989, 1]);
    expect(strongest(new Float32Array([-0.5, 0, 0.25, 0.75]), 2, { most: 9, least: 0 })).toMatchObject({ total: 2, below: 1 });
    expect(found.leftWeight).toBeCloseTo(9989 / 4);
  });
});

describe("the words' line", () => {
  const at = starts([10, 30, 20]);

  it("fits the box, and moves no further than its ends", () => {
    expect(whole(60, 30)).toEqual({ from: 0, zoom: 0.5 });
    expect(within({ from: 99, zoom: 1 }, 60, 30).from).toBe(30);
    expect(within({ from: -5, zoom: 0.5 }, 60, 30).from).toBe(0);
  });

  it("knows the word at a pixel, zoomed and moved", () => {
    expect([0, 9, 10, 39, 59].map((x) => wordAt(at, { from: 0, zoom: 1 }, x))).toEqual([0, 0, 1, 1, 2]);
    expect(wordAt(at, { from: 30, zoom: 2 }, 10)).toBe(1);
    expect([wordAt(at, { from: 0, zoom: 1 }, -1), wordAt(at, { from: 0, zoom: 1 }, 60)]).toEqual([null, null]);
  });

  it("keeps the pixel under the pointer where it is while it grows", () => {
    const { from, zoom } = zoomedAt({ from: 0, zoom: 1 }, 0.5, 2, 25);
    expect(wordAt(at, { from, zoom }, 25)).toBe(wordAt(at, { from: 0, zoom: 1 }, 25));
    expect((25 + from) / zoom).toBe(25);
  });

  it("names those that must be named, then the others that have room", () => {
    const crowded = starts([10, 10, 10, 10]);
    expect(named(crowded, [18, 18, 18, 18], { from: 0, zoom: 1 }, 40, [2]).sort()).toEqual([0, 2]);
    expect(named(crowded, [18, 18, 18, 18], { from: 0, zoom: 2 }, 80, [2]).sort()).toEqual([0, 1, 2, 3]);
  });
});
