import { describe, expect, it } from "vitest";
import { colourAt, coloured, colourTable, ODD, position, type Scale, valueAt } from "../src/draw/colours";
import { levelFor, pyramid } from "../src/draw/pyramid";
import { histogram, scaleOf, summary } from "../src/draw/statistics";
import { cellAt, fit, inside, labelled, showing, zoomed } from "../src/draw/viewport";

const values = new Float32Array([0, 1, -2, 1000, NaN, Infinity, -Infinity, 3]);
const rgb = (pixels: Uint8ClampedArray, i: number) => [...pixels.slice(4 * i, 4 * i + 3)];

describe("colours", () => {
  const scale = scaleOf(summary(values));

  it("clip nothing: the largest value is the scale's end", () => {
    expect([scale.largest, scale.diverging]).toEqual([1000, true]);
    expect([position(1000, scale), position(0, scale), position(-1000, scale)]).toEqual([1, 0, -1]);
    expect(valueAt(position(37, scale), scale)).toBeCloseTo(37, 3);
  });

  it("of a table are those of the value itself, to its bfloat16", () => {
    const many = Float32Array.from({ length: 2001 }, (_, i) => Math.sinh((i - 1000) / 150) * 2);
    const wide: Scale = scaleOf(summary(many));
    const pixels = coloured(many, colourTable(wide, "light"));
    many.forEach((value, i) => {
      const exact = colourAt(position(value, wide), "light");
      exact.forEach((channel, c) => expect(Math.abs(channel - (rgb(pixels, i)[c] ?? 0))).toBeLessThan(4));
    });
  });

  it("mark NaN and infinities, and leave the page where a value is 0", () => {
    for (const theme of ["light", "dark"] as const) {
      const pixels = coloured(values, colourTable(scale, theme));
      expect(rgb(pixels, 0)).toEqual([...colourAt(0, theme)]);
      expect(rgb(pixels, 4)).toEqual([...ODD[theme].nan]);
      expect([rgb(pixels, 5), rgb(pixels, 6)]).toEqual([[...ODD[theme].infinite], [...ODD[theme].infinite]]);
    }
  });

  it("of bytes are those of their 255ths", () => {
    const unit: Scale = { kind: "linear", constant: 1, largest: 1, diverging: false };
    const table = colourTable(unit, "dark");
    expect(rgb(coloured(new Uint8Array([0, 128, 255]), table), 2)).toEqual([...colourAt(1, "dark")]);
    expect([...coloured(new Uint8Array([128]), table)]).toEqual([...coloured(new Float32Array([128 / 255]), table)]);
  });
});

describe("a legend", () => {
  it("counts every value once, and the odd ones apart", () => {
    const found = summary(values);
    expect([found.nan, found.plusInfinite, found.minusInfinite]).toEqual([1, 1, 1]);
    expect([found.smallest, found.largest]).toEqual([-2, 1000]);
    expect(Math.abs(found.medianSize - 2)).toBeLessThan(2 / 128);
    const bars = histogram(found, scaleOf(found), 8);
    expect(bars.reduce((a, b) => a + b)).toBe(5);
  });
});

describe("a smaller matrix", () => {
  it("keeps spikes of either sign, NaN, and numbers beside the mask's −∞", () => {
    const cells = new Float32Array(512 * 512).fill(0.001);
    cells[511 * 512 + 511] = -9;
    cells[0] = NaN;
    cells[4] = -Infinity;
    const levels = pyramid(cells, 512, 512, 64);
    const small = levels.at(-1)!;
    expect([small.rows, small.step, levels.length]).toEqual([64, 8, 4]);
    expect(small.values.at(-1)).toBe(-9);
    expect(small.values[0]).toBeNaN();
    expect(levels[1]!.values[2]).toBeCloseTo(0.001);
    expect([levelFor(levels, 0.3).step, levelFor(levels, 2).step]).toEqual([2, 1]);
  });
});

describe("a view of a matrix", () => {
  const size = { rows: 1000, columns: 1000 };
  const box = { width: 500, height: 500 };
  const whole = fit(size, 500, { cell: 40, height: 500 });

  it("zooms around the pointer and never shows an edge", () => {
    const close = inside(zoomed(whole, whole, 10, { x: 100, y: 400 }), size, box);
    expect(cellAt(close, size, 100, 400)).toEqual(cellAt(whole, size, 100, 400));
    expect(zoomed(close, whole, 0.001, { x: 0, y: 0 }).wide).toBe(whole.wide);
    expect(inside({ ...close, x: 5000, y: -3 }, size, box)).toMatchObject({ x: 900, y: 0 });
  });

  it("of strips shows every row, and rows grow to their height", () => {
    const strips = fit({ rows: 1000, columns: 576 }, 1152, { cell: 40, height: 500 }, 26);
    expect([strips.wide, strips.high]).toEqual([2, 0.5]);
    expect(zoomed(strips, strips, 8, { x: 0, y: 0 }, 26)).toMatchObject({ wide: 16, high: 4 });
    expect(fit({ rows: 9, columns: 576 }, 1152, { cell: 40, height: 500 }, 26).high).toBe(26);
  });

  it("follows the keys", () => {
    const close = inside(zoomed(whole, whole, 10, { x: 0, y: 0 }), size, box);
    const moved = showing(close, box, 999, 0);
    expect(cellAt(moved, size, 0, 499)).toEqual({ row: 999, column: 0 });
  });

  it("names as many rows as have room", () => {
    expect(labelled(0, 10, 10, 20, 20)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(labelled(0, 1000, 1000, 0.5, 20)).toEqual(Array.from({ length: 20 }, (_, i) => i * 50));
  });
});
