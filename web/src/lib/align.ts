// Two lists of tokens side by side, by position or by the longest common subsequence of their ids. It does not know text.

/** One column: a position in each list, null where that list has no token for the other's. */
export interface Aligned {
  a: number | null;
  b: number | null;
  same: boolean;
}

/** Equal ids stand together, in order, as many as possible; between two of them what differs is paired from its start.
 * Lists of one length of which half stands in place already (two names swapped) are paired position by position. */
export function align(a: readonly number[], b: readonly number[]): Aligned[] {
  const inPlace = a.map((id, i) => id === b[i]);
  if (a.length === b.length && 2 * inPlace.filter(Boolean).length >= a.length)
    return inPlace.map((same, i) => ({ a: i, b: i, same }));
  const columns: Aligned[] = [];
  let [i, j] = [0, 0];
  for (const [x, y] of [...common(a, b), [a.length, b.length] as const]) {
    for (; i < x || j < y; i++, j++) columns.push({ a: i < x ? i : null, b: j < y ? j : null, same: false });
    [i, j] = [x, y];
    if (i < a.length && j < b.length) columns.push({ a: i++, b: j++, same: true });
  }
  return columns;
}

/** The position in b that stands beside one of a; null where there is none. */
export const beside = (columns: readonly Aligned[], a: number): number | null =>
  columns.find((each) => each.a === a)?.b ?? null;

/** Pairs of positions of a longest common subsequence, ascending. Time and memory grow with the product of the lengths. */
function common(a: readonly number[], b: readonly number[]): [number, number][] {
  const wide = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * wide); // of a from i and b from j on
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--) {
      const [down, right] = [longest[(i + 1) * wide + j]!, longest[i * wide + j + 1]!];
      longest[i * wide + j] = a[i] === b[j] ? longest[(i + 1) * wide + j + 1]! + 1 : Math.max(down, right);
    }
  const pairs: [number, number][] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (longest[(i + 1) * wide + j]! >= longest[i * wide + j + 1]!) i++;
    else j++;
  }
  return pairs;
}
