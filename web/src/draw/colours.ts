// Values to colours: warm is more, blue is below zero, the page is zero, as in src/cutaway/show/colours.py.
// A colour table has one entry for each top half of a float32 (its bfloat16), so that colouring a cell is a look-up.

export type RGB = readonly [number, number, number];
export const ABOVE: RGB = [200, 85, 0];
export const BELOW: RGB = [10, 122, 191];

/** Far ends, beyond ABOVE and BELOW: towards ink on a light page, towards light on a dark one. */
const ENDS = {
  light: { page: [255, 255, 255], above: [78, 22, 4], below: [6, 34, 84] },
  dark: { page: [20, 22, 26], above: [255, 214, 150], below: [170, 222, 255] },
} as const satisfies Record<string, Record<string, RGB>>;
const TURN = 0.62; // where along the scale ABOVE and BELOW themselves stand

/** What a value of no colour is drawn in: NaN violet, infinities grey. */
export const ODD = {
  light: { nan: [150, 60, 190], infinite: [196, 198, 206] },
  dark: { nan: [205, 130, 240], infinite: [74, 78, 88] },
} as const satisfies Record<string, Record<string, RGB>>;

export type Theme = "light" | "dark";

/** How values of one site become colours. symlog: asinh(x / constant), which is linear below the constant. */
export interface Scale {
  kind: "linear" | "symlog";
  constant: number;
  largest: number;
  diverging: boolean;
}

/** Where a value stands on its scale: −1 to 1, 0 is the page. NaN stays NaN. */
export function position(value: number, scale: Scale): number {
  if (scale.kind === "linear") return Math.max(-1, Math.min(1, value / scale.largest));
  const most = Math.asinh(scale.largest / scale.constant);
  return Math.max(-1, Math.min(1, Math.asinh(value / scale.constant) / most));
}

/** The value at a position of the scale: the legend's ticks. */
export function valueAt(place: number, scale: Scale): number {
  if (scale.kind === "linear") return place * scale.largest;
  return Math.sinh(place * Math.asinh(scale.largest / scale.constant)) * scale.constant;
}

/** The colour at a position from −1 to 1. */
export function colourAt(place: number, theme: Theme): RGB {
  const { page, above, below } = ENDS[theme];
  const size = Math.min(1, Math.abs(place));
  const middle = place < 0 ? BELOW : ABOVE;
  if (size <= TURN) return mix(page, middle, size / TURN);
  return mix(middle, place < 0 ? below : above, (size - TURN) / (1 - TURN));
}

export const css = ([r, g, b]: RGB): string => `rgb(${r} ${g} ${b})`;

/** 65,536 colours as little-endian RGBA, indexed by the top 16 bits of a float32. */
export function colourTable(scale: Scale, theme: Theme): Uint32Array {
  const table = new Uint32Array(65536);
  const half = new Uint32Array(1);
  const value = new Float32Array(half.buffer);
  const ramp = Uint32Array.from({ length: 2049 }, (_, i) => packed(colourAt((i - 1024) / 1024, theme)));
  for (let i = 0; i < 65536; i++) {
    half[0] = (i << 16) | 0x8000; // the middle of the values that share these bits
    const x = value[0] as number;
    if ((i & 0x7f80) === 0x7f80) table[i] = packed((i & 0x7f) === 0 ? ODD[theme].infinite : ODD[theme].nan);
    else table[i] = ramp[Math.round(position(x, scale) * 1024) + 1024] as number;
  }
  table[0] = table[0x8000] = packed(ENDS[theme].page);
  return table;
}

/** The pixels of values, one each. A byte counts 1/255: the server's thumbnails of patterns. */
export function coloured(values: Float32Array | Uint8Array, table: Uint32Array): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint32Array(values.length);
  if (values instanceof Uint8Array) {
    const small = Uint32Array.from({ length: 256 }, (_, byte) => table[topBits(byte / 255)] as number);
    for (let i = 0; i < values.length; i++) pixels[i] = small[values[i] as number] as number;
  } else {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    for (let i = 0; i < values.length; i++) pixels[i] = table[(bits[i] as number) >>> 16] as number;
  }
  return new Uint8ClampedArray(pixels.buffer);
}

function topBits(value: number): number {
  return new Uint32Array(new Float32Array([value]).buffer)[0]! >>> 16;
}

function mix(from: RGB, to: RGB, share: number): RGB {
  return [0, 1, 2].map((i) => Math.round(from[i]! + (to[i]! - from[i]!) * share)) as unknown as RGB;
}

function packed([r, g, b]: RGB): number {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
