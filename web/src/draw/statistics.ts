// What a legend says of values: smallest, largest, median size, histogram, how many are NaN or infinite.
import { position, type Scale } from "./colours";

export interface Summary {
  smallest: number;
  largest: number;
  /** Median of the absolute values that are not 0, to one part in 128: 0 where all are 0. */
  medianSize: number;
  nan: number;
  plusInfinite: number;
  minusInfinite: number;
  /** How many values have those top 16 bits. */
  counts: Uint32Array;
}

/** One pass over the values. */
export function summary(values: Float32Array | Uint8Array): Summary {
  const floats = values instanceof Uint8Array ? Float32Array.from(values, (byte) => byte / 255) : values;
  const bits = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const counts = new Uint32Array(65536);
  let smallest = Infinity;
  let largest = -Infinity;
  for (let i = 0; i < floats.length; i++) {
    const value = floats[i] as number;
    counts[(bits[i] as number) >>> 16]!++;
    if (value < smallest && value !== -Infinity) smallest = value;
    if (value > largest && value !== Infinity) largest = value;
  }
  let nan = 0;
  for (let i = 0x7f81; i < 0x8000; i++) nan += counts[i]! + counts[i | 0x8000]!;
  const [plusInfinite, minusInfinite] = [counts[0x7f80]!, counts[0xff80]!];
  return { smallest, largest, medianSize: medianSize(counts), nan, plusInfinite, minusInfinite, counts };
}

/** Of two arrays, as of one; the median size is the first one's. */
export function joined(a: Summary, b: Summary): Summary {
  return {
    smallest: Math.min(a.smallest, b.smallest), largest: Math.max(a.largest, b.largest), medianSize: a.medianSize,
    nan: a.nan + b.nan, plusInfinite: a.plusInfinite + b.plusInfinite, minusInfinite: a.minusInfinite + b.minusInfinite,
    counts: a.counts.map((count, i) => count + b.counts[i]!),
  };
}

/** The scale of a site: symlog around its median size, from 0 or as far below as above. Nothing is clipped. */
export function scaleOf(found: Summary, kind: Scale["kind"] = "symlog"): Scale {
  const ends = [found.smallest, found.largest].filter(Number.isFinite).map(Math.abs);
  const largest = Math.max(0, ...ends) || 1;
  return { kind, largest, constant: found.medianSize || largest, diverging: found.smallest < 0 };
}

/** How many values stand in each of so many equal parts of the scale. */
export function histogram(found: Summary, scale: Scale, parts: number): number[] {
  const bars = new Array<number>(parts).fill(0);
  const half = new Uint32Array(1);
  const value = new Float32Array(half.buffer);
  for (let i = 0; i < 65536; i++) {
    const amount = found.counts[i] as number;
    if (!amount || (i & 0x7f80) === 0x7f80) continue;
    half[0] = i << 16;
    const place = position(value[0] as number, scale);
    const share = scale.diverging ? (place + 1) / 2 : place;
    bars[Math.max(0, Math.min(parts - 1, Math.floor(share * parts)))]! += amount;
  }
  return bars;
}

function medianSize(counts: Uint32Array): number {
  let total = 0;
  for (let i = 1; i < 0x7f80; i++) total += counts[i]! + counts[i | 0x8000]!;
  let below = 0;
  for (let i = 1; i < 0x7f80; i++) {
    below += counts[i]! + counts[i | 0x8000]!;
    if (below * 2 >= total && total) return new Float32Array(new Uint32Array([(i << 16) | 0x8000]).buffer)[0] as number;
  }
  return 0;
}
