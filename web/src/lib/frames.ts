// Reads one binary frame: the safetensors layout, onto typed arrays without a copy. It does not know what the values mean.

export type Values = Float32Array | Int32Array | Uint8Array;

/** One array of an answer: its values row by row, and its shape. */
export interface Tensor<V extends Values = Values> {
  data: V;
  shape: number[];
}

export interface Frame {
  id: number;
  last: boolean;
  answer: unknown;
  tensors: Record<string, Tensor>;
}

const KINDS = { F32: Float32Array, I32: Int32Array, U8: Uint8Array } as const;

interface Entry {
  dtype: keyof typeof KINDS;
  shape: number[];
  data_offsets: [number, number];
}

/** The frame in those bytes. Throws on anything that is not the layout: a frame is never half read. */
export function readFrame(bytes: ArrayBuffer): Frame {
  const length = Number(new DataView(bytes).getBigUint64(0, true));
  const start = 8 + length;
  if (start > bytes.byteLength) throw new RangeError(`a header of ${length} bytes in a frame of ${bytes.byteLength}`);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)));
  const { __metadata__: about, ...entries } = header as { __metadata__: Record<string, string> } & Record<string, Entry>;
  const tensors: Record<string, Tensor> = {};
  for (const [name, entry] of Object.entries(entries)) tensors[name] = view(bytes, start, name, entry as Entry);
  return { id: Number(about.id), last: about.last !== "false", answer: JSON.parse(about.answer ?? "{}"), tensors };
}

function view(bytes: ArrayBuffer, start: number, name: string, entry: Entry): Tensor {
  const Kind = KINDS[entry.dtype];
  if (!Kind) throw new TypeError(`${name} is of dtype ${entry.dtype}; expected ${Object.keys(KINDS).join(", ")}`);
  const [from, to] = entry.data_offsets;
  const count = entry.shape.reduce((product, size) => product * size, 1);
  if (to - from !== count * Kind.BYTES_PER_ELEMENT || start + to > bytes.byteLength)
    throw new RangeError(`${name} of shape ${entry.shape} has ${to - from} bytes`);
  const at = start + from;
  // The format pads its header so that arrays are aligned; one that is not is copied.
  if (at % Kind.BYTES_PER_ELEMENT === 0) return { data: new Kind(bytes, at, count), shape: entry.shape };
  return { data: new Kind(bytes.slice(at, start + to)), shape: entry.shape };
}

/** One row of the last axes: slice(pattern [L,H,T,S], layer, head) is [T,S]. No copy. */
export function slice<V extends Values>(tensor: Tensor<V>, ...index: number[]): Tensor<V> {
  const rest = tensor.shape.slice(index.length);
  const size = rest.reduce((product, each) => product * each, 1);
  let at = 0;
  index.forEach((i, axis) => (at = at * (tensor.shape[axis] ?? 1) + i));
  return { data: tensor.data.subarray(at * size, (at + 1) * size) as V, shape: rest };
}

/** One value of a tensor; NaN outside. */
export function at(tensor: Tensor | undefined, ...index: number[]): number {
  if (!tensor) return Number.NaN;
  let place = 0;
  index.forEach((i, axis) => (place = place * (tensor.shape[axis] ?? 1) + i));
  return tensor.data[place] ?? Number.NaN;
}
