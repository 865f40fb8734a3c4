// What the lesson reads off arrays of the run: lengths, angles, ranks. It does not know the lesson.
import type { Tensor } from "../../lib/frames";

/** The Euclidean length of a vector. */
export function length(vector: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < vector.length; i++) sum += (vector[i] ?? 0) ** 2;
  return Math.sqrt(sum);
}

/** The cosine between one row of a matrix and each of its rows. */
export function cosines(matrix: Tensor<Float32Array>, row: number): number[] {
  const [rows = 0, width = 0] = matrix.shape;
  const of = (r: number) => matrix.data.subarray(r * width, (r + 1) * width);
  const own = of(row);
  return Array.from({ length: rows }, (_, r) => {
    let dot = 0;
    for (let i = 0; i < width; i++) dot += (own[i] ?? 0) * (of(r)[i] ?? 0);
    return dot / (length(own) * length(of(r)) || 1);
  });
}

/** Where the largest value stands, the first of several; NaN is none. */
export function largest(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    const value = values[i] ?? NaN;
    if (value > (values[best] ?? NaN) || (Number.isNaN(values[best]) && !Number.isNaN(value))) best = i;
  }
  return best;
}

/** A token's probability and its rank, from 1, among all logits. */
export function standing(logits: Float32Array, id: number): { prob: number; rank: number } {
  const own = logits[id] ?? -Infinity;
  const most = logits[largest(logits)] ?? 0;
  let [sum, above] = [0, 0];
  for (const logit of logits) {
    sum += Math.exp(logit - most);
    if (logit > own) above++;
  }
  return { prob: Math.exp(own - most) / sum, rank: above + 1 };
}

/** The same sentence in letters that its tokens were not made for, and what was done to it. */
export function respelled(text: string): { text: string; how: string } {
  const upper = text.toUpperCase();
  if (upper !== text) return { text: upper, how: "in CAPITALS" };
  const lower = text.toLowerCase();
  if (lower !== text) return { text: lower, how: "in small letters" };
  return { text: text.replaceAll(" ", ""), how: "without its spaces" };
}
