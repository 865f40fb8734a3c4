// Which of a head's weights are drawn as arcs, and where its words stand along a line. It draws nothing.

export interface Arc {
  /** The position that reads, and the one that is read. */
  from: number;
  to: number;
  weight: number;
}
export interface Chosen {
  /** The largest last, so that they are drawn on top. */
  arcs: Arc[];
  /** All weights above 0 that are not greyed, how many of them have no arc, and the sum of those. */
  total: number;
  left: number;
  leftWeight: number;
  /** The sum of the weights on the first position, where it is greyed. */
  greyed: number;
  /** The sum of all weights, greyed ones too. */
  weight: number;
  nan: number;
  /** How many are below 0, as a change can make them: they have no arc. */
  below: number;
}
interface Limits {
  /** At most so many arcs. */
  most: number;
  /** None below this weight. */
  least: number;
  /** Leave out the first position as one that is read. */
  withoutFirst?: boolean;
  /** These rows alone, [start, end). */
  rows?: readonly [number, number];
}

/** The strongest weights of a pattern [T, T]. Everything left out is counted. */
export function strongest(pattern: Float32Array, size: number, limits: Limits): Chosen {
  const { rows: [start, end] = [0, size], withoutFirst = false } = limits;
  const found: Chosen = { arcs: [], total: 0, left: 0, leftWeight: 0, greyed: 0, weight: 0, nan: 0, below: 0 };
  const least = Math.max(limits.least, cut(pattern.subarray(start * size, end * size), size, limits));
  let kept = 0;
  for (let from = start; from < end; from++)
    for (let to = 0; to < size; to++) {
      const weight = pattern[from * size + to] as number;
      if (Number.isNaN(weight)) found.nan++;
      if (weight < 0) found.below++;
      if (!(weight > 0)) continue;
      found.weight += weight;
      if (to === 0 && withoutFirst) {
        found.greyed += weight;
        continue;
      }
      found.total++;
      if (weight >= least && weight > 0) {
        found.arcs.push({ from, to, weight });
        kept += weight;
      }
    }
  found.arcs.sort((a, b) => a.weight - b.weight);
  for (const each of found.arcs.splice(0, found.arcs.length - limits.most)) kept -= each.weight;
  found.left = found.total - found.arcs.length;
  found.leftWeight = found.left ? Math.max(0, found.weight - found.greyed - kept) : 0;
  return found;
}

/** A weight that at least `most` weights reach, and few more: no sorting of a million. */
function cut(weights: Float32Array, size: number, { most, withoutFirst = false }: Limits): number {
  const counts = new Uint32Array(32768); // by the top 16 bits of a positive float, which keep its order
  const bits = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
  for (let i = 0; i < bits.length; i++) {
    const top = (bits[i] as number) >>> 16;
    if (top < 0x7f80 && !(withoutFirst && i % size === 0)) counts[top]!++;
  }
  let above = 0;
  for (let top = 0x7f7f; top > 0; top--) {
    above += counts[top] as number;
    if (above >= most) return new Float32Array(new Uint32Array([top << 16]).buffer)[0] as number;
  }
  return 0;
}

/** A part of the line of words: the pixel of the line at the box's start, and how much larger it is drawn. */
export interface Reach {
  from: number;
  zoom: number;
}

/** Where each word begins on the line, and where the last ends, in pixels at zoom 1. */
export function starts(widths: ArrayLike<number>): Float64Array {
  const at = new Float64Array(widths.length + 1);
  for (let i = 0; i < widths.length; i++) at[i + 1] = (at[i] as number) + (widths[i] as number);
  return at;
}

/** All words in the box: smaller where they are long, up to `widest` times larger where they are short. */
export function whole(length: number, box: number, widest = 2.2): Reach {
  return { from: 0, zoom: Math.min(widest, box / Math.max(1, length)) };
}

/** Words at their own size around one of them: the first look at a long text. */
export function around(at: Float64Array, word: number, box: number): Reach {
  return within({ from: ((at[word] ?? 0) + (at[word + 1] ?? 0)) / 2 - box / 2, zoom: 1 }, at[at.length - 1] ?? 0, box);
}

/** Moved back to where the box is full. */
export function within(reach: Reach, length: number, box: number): Reach {
  return { ...reach, from: Math.max(0, Math.min(reach.from, length * reach.zoom - box)) };
}

/** Larger by a factor around a pixel of the box; never smaller than the whole. */
export function zoomedAt(reach: Reach, least: number, factor: number, at: number): Reach {
  const zoom = Math.min(Math.max(reach.zoom * factor, least), Math.max(2, least));
  return { zoom, from: ((reach.from + at) / reach.zoom) * zoom - at };
}

/** The word at a pixel of the box, or null outside. */
export function wordAt(at: Float64Array, { from, zoom }: Reach, pixel: number): number | null {
  const place = (pixel + from) / zoom;
  let [low, high] = [0, at.length - 1];
  if (place < 0 || place >= (at[high] as number)) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((at[middle] as number) <= place) low = middle;
    else high = middle;
  }
  return low;
}

/** Which words have room for their names: first the important ones in their order, then from the left. */
export function named(at: Float64Array, widths: ArrayLike<number>, reach: Reach, box: number, must: number[]): number[] {
  const middle = (i: number) => (((at[i] as number) + (at[i + 1] as number)) / 2) * reach.zoom - reach.from;
  const span = (i: number) => [middle(i) - (widths[i] as number) / 2, middle(i) + (widths[i] as number) / 2] as const;
  const names: number[] = [];
  const taken: (readonly [number, number])[] = [];
  for (const i of must) {
    const [from, to] = span(i);
    if (taken.some(([a, b]) => a < to && b > from)) continue;
    names.push(i);
    taken.push([from, to]);
  }
  let end = -Infinity;
  for (let i = 0; i < widths.length; i++) {
    const [from, to] = span(i);
    if (to < 0 || from > box || from < end || taken.some(([a, b]) => from < b && a < to)) continue;
    names.push(i);
    end = to;
  }
  return names;
}
