// What one row of attention shows beside its answer: the factor in words, the softmax's parts, the mix. Arithmetic only.

/** The factor in words: ÷ √64, or × 0.5. width: of a head. */
export function factorWords(factor: number, width: number, said: (value: number) => string): string {
  return Math.abs(factor * Math.sqrt(width) - 1) < 1e-6 ? `÷ √${width}` : `× ${said(factor)}`;
}

/** The largest score, and the sum of e^(score − largest): what softmax divides by. sink: one score more, if not null. */
export function softmaxParts(scores: Float32Array, sink: number | null): { largest: number; sum: number } {
  const largest = scores.reduce((most, score) => Math.max(most, score), sink ?? -Infinity);
  const own = sink === null ? 0 : Math.exp(sink - largest);
  return { largest, sum: scores.reduce((sum, score) => sum + Math.exp(score - largest), own) };
}

export interface Mix {
  /** Rows as wide as z. */
  values: Float32Array;
  /** The positions that have a row of their own. */
  rows: number[];
  /** How many share one row; 0: there is no such row. */
  others: number;
}

/** The strongest positions' share of z: rows of weight × v, then those of all the others together, then z. */
export function mixed(weights: Float32Array, v: Float32Array, z: Float32Array, most: number): Mix {
  const width = z.length;
  const order = Array.from(weights.keys()).filter((i) => weights[i]! > 0).sort((a, b) => weights[b]! - weights[a]!);
  const rows = order.slice(0, most);
  const rest = order.slice(most);
  const values = new Float32Array((rows.length + (rest.length ? 1 : 0) + 1) * width);
  rows.forEach((s, r) => {
    for (let k = 0; k < width; k++) values[r * width + k] = weights[s]! * v[s * width + k]!;
  });
  for (const s of rest)
    for (let k = 0; k < width; k++) values[rows.length * width + k]! += weights[s]! * v[s * width + k]!;
  values.set(z, values.length - width);
  return { values, rows, others: rest.length };
}
