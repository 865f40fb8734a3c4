// One part of a site's values: some axes at one index, the others whole. It does not know what the values mean.
import type { Tensor } from "./frames";

export interface Part {
  values: Float32Array;
  rows: number;
  columns: number;
  /** The index in the whole array of a cell. */
  indexOf: (row: number, column: number) => number[];
}

/** The values where `index` fixes axes (null: whole), as rows × columns: the last whole axis is the columns. */
export function part(tensor: Tensor<Float32Array>, index: readonly (number | null)[]): Part {
  const { shape, data } = tensor;
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
  const free = shape.flatMap((_, axis) => (index[axis] == null ? [axis] : []));
  const sizes = free.map((axis) => shape[axis]!);
  const columns = sizes.at(-1) ?? 1;
  const rows = sizes.slice(0, -1).reduce((product, size) => product * size, 1);
  const indexOf = (row: number, column: number) => {
    const full = shape.map((_, axis) => index[axis] ?? 0);
    let left = row * columns + column;
    for (let i = free.length - 1; i >= 0; i--) {
      full[free[i]!] = left % sizes[i]!;
      left = Math.floor(left / sizes[i]!);
    }
    return full;
  };
  const values = Float32Array.from({ length: rows * columns }, (_, i) => {
    const at = indexOf(Math.floor(i / columns), i % columns);
    return data[at.reduce((sum, each, axis) => sum + each * strides[axis]!, 0)] ?? Number.NaN;
  });
  return { values, rows, columns, indexOf };
}

/** "blocks.3.attn.z[0, 7, 2, 11]" of a text alone: the site and the index without the batch axis; null for other words. */
export function element(words: string): { site: string; index: number[] } | null {
  const found = /^([\w.]+)\[0((?:, \d+)+)\]$/.exec(words);
  return found ? { site: found[1]!, index: found[2]!.slice(2).split(", ").map(Number) } : null;
}

/** A value with the digits that tell its float32 from every other. */
export const exact = (value: number): string => (Number.isFinite(value) ? String(Number(value.toPrecision(9))) : String(value));
