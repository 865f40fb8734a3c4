// What the heads are sorted by, and the one scale of attention weights. It knows scores; it draws nothing.
import type { Scale } from "../../draw/colours";

/** The measured roles: names of the run's tensors, and their words. Entropy is in nats, the others are mean weights. */
export const ROLES = {
  previous: "previous token",
  duplicate: "same token before",
  induction: "induction",
  first: "first token",
  self: "itself",
  entropy: "entropy",
} as const;
export type Role = keyof typeof ROLES;
export type Order = Role | "layer";

/** What a role is a measure of, for its button's title. */
export const MEANING: Record<Order, string> = {
  layer: "Blocks in order, their heads side by side",
  previous: "Mean weight on the position just before",
  duplicate: "Mean weight on earlier positions of the same token",
  induction: "Mean weight on the positions right after earlier occurrences of the token",
  first: "Mean weight on the first position: the attention sink",
  self: "Mean weight on the position itself",
  entropy: "Entropy of a row in nats, the mean over the rows: small where a head reads one position",
};

/** Weights from 0 to 1, the same colours for every head: linear below 0.02, logarithmic above. */
export const WEIGHTS: Scale = { kind: "symlog", constant: 0.02, largest: 1, diverging: false };

/** Heads as layer · heads + head, the largest score first; NaN, where a role does not apply, last. */
export function sorted(scores: ArrayLike<number>): number[] {
  const size = (i: number) => (Number.isNaN(scores[i]) ? -Infinity : (scores[i] as number));
  return Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => size(b) - size(a) || a - b);
}

/** Where the thumbnails stand: as layers × heads along the longer side that has room, or in lines one after the other. */
export interface Places {
  columns: number;
  rows: number;
  /** Pixels of a thumbnail's side, and from one to the next. */
  side: number;
  wide: number;
  high: number;
  /** layers: each column is a block; heads: each column is a head; lines: in order. */
  along: "layers" | "heads" | "lines";
}

export function places(order: Order, layers: number, heads: number, width: number): Places {
  if (order !== "layer") {
    const [side, wide] = [64, 78];
    const columns = Math.max(1, Math.floor(width / wide));
    return { columns, rows: Math.ceil((layers * heads) / columns), side, wide, high: side + 38, along: "lines" };
  }
  const gap = 4;
  const fits = (count: number) => Math.min(64, Math.floor(width / count) - gap);
  const along = fits(layers) >= 28 && layers >= heads ? "layers" : "heads";
  const [columns, rows] = along === "layers" ? [layers, heads] : [heads, layers];
  const side = Math.max(12, fits(columns));
  return { columns, rows, side, wide: side + gap, high: side + gap, along };
}

/** The head at a column and row, or null where there is none. inOrder: the heads as they are sorted. */
export function headAt(at: Places, inOrder: number[], heads: number, column: number, row: number): number | null {
  if (column < 0 || row < 0 || column >= at.columns || row >= at.rows) return null;
  if (at.along === "lines") return inOrder[row * at.columns + column] ?? null;
  return at.along === "layers" ? column * heads + row : row * heads + column;
}

export function placeOf(at: Places, inOrder: number[], heads: number, head: number): { column: number; row: number } {
  if (at.along === "lines") {
    const i = inOrder.indexOf(head);
    return { column: i % at.columns, row: Math.floor(i / at.columns) };
  }
  const [layer, own] = [Math.floor(head / heads), head % heads];
  return at.along === "layers" ? { column: layer, row: own } : { column: own, row: layer };
}
