// How merges made a piece: its parts before the first merge and after each. It does not know the vocabulary.
import type { Merge } from "../../lib/answers";

export interface Step {
  parts: string[];
  /** The part that this step made; −1 before the first. */
  made: number;
  rank: number | null;
}

/** The steps from single characters to the piece. merges: of this piece alone, in their order. */
export function steps(merges: Merge[]): Step[] {
  const last = merges.at(-1);
  if (!last) return [];
  // Backwards: of equal parts the last was made last, as equal merges run from left to right.
  const found: Step[] = [];
  let parts = [last.result];
  for (const merge of merges.toReversed()) {
    const made = parts.lastIndexOf(merge.result);
    found.unshift({ parts, made, rank: merge.rank });
    parts = [...parts.slice(0, made), merge.left, merge.right, ...parts.slice(made + 1)];
  }
  return [{ parts, made: -1, rank: null }, ...found];
}
