import { describe, expect, it } from "vitest";
import { at, readFrame, slice } from "../src/lib/frames";

function frame(header: object, data: Uint8Array, pad = true): ArrayBuffer {
  let text = JSON.stringify(header);
  if (pad) while ((8 + text.length) % 8) text += " ";
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(new TextEncoder().encode(text), 8);
  bytes.set(data, 8 + text.length);
  return bytes.buffer;
}

const about = { id: "7", last: "false", answer: '{"run":"r1"}' };
const values = new Uint8Array(new Float32Array([1, 2, 3, NaN, -Infinity, 6]).buffer);

describe("frames", () => {
  it("are views of the message, without a copy", () => {
    const bytes = frame({ __metadata__: about, x: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] } }, values);
    const read = readFrame(bytes);
    expect([read.id, read.last, read.answer]).toEqual([7, false, { run: "r1" }]);
    expect(read.tensors.x!.data.buffer).toBe(bytes);
    expect(at(read.tensors.x, 0, 2)).toBe(3);
    expect(at(read.tensors.x, 1, 0)).toBeNaN();
    expect([...slice(read.tensors.x!, 1).data]).toEqual([NaN, -Infinity, 6]);
  });

  it("that are not aligned are read all the same", () => {
    const header = { __metadata__: { ...about, answer: '{"a":1}' }, x: { dtype: "F32", shape: [6], data_offsets: [0, 24] } };
    let bytes = frame(header, values, false);
    if (bytes.byteLength % 4 === 0) bytes = frame({ ...header, y: { dtype: "U8", shape: [0], data_offsets: [24, 24] } }, values, false);
    expect([...readFrame(bytes).tensors.x!.data].slice(0, 3)).toEqual([1, 2, 3]);
  });

  it("that end too early are refused", () => {
    const bytes = frame({ __metadata__: about, x: { dtype: "F32", shape: [9], data_offsets: [0, 36] } }, values);
    expect(() => readFrame(bytes)).toThrow(RangeError);
    const wrong = frame({ __metadata__: about, x: { dtype: "F32", shape: [2], data_offsets: [0, 24] } }, values);
    expect(() => readFrame(wrong)).toThrow(RangeError);
  });
});
