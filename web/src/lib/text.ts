// Tokens and numbers as a reader sees them, the same as in the terminal: src/cutaway/text/table.py, show/colours.py.

const SIGNS: Record<string, string> = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
// Of no shape of their own, or none to trust: control, format, unassigned, private, and separators but the space.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Zs}\p{Zl}\p{Zp}]/u;
const hex = (value: number, digits: number) => value.toString(16).toUpperCase().padStart(digits, "0");

/** Text on one line, its invisible characters shown: ␣ ↵ ⇥ ␍, and ⟨U+200B⟩ for any other. */
export function visible(text: string): string {
  return [...text]
    .map((c) => SIGNS[c] ?? (HIDDEN.test(c) ? `⟨U+${hex(c.codePointAt(0) ?? 0, 4)}⟩` : c))
    .join("");
}

/** The text of bytes, and ⟨F0·9F⟩ for those that are no character, each longest start of one by itself. */
export function characters(bytes: ArrayLike<number>): string {
  let text = "";
  for (let i = 0; i < bytes.length; ) {
    const [length, whole] = started(bytes, i);
    const part = Array.from({ length }, (_, k) => bytes[i + k] ?? 0);
    text += whole ? UTF8.decode(Uint8Array.from(part)) : `⟨${part.map((byte) => hex(byte, 2)).join("·")}⟩`;
    i += length;
  }
  return text;
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** How many bytes from there on begin a character of UTF-8, at least one, and whether they are all of it. */
function started(bytes: ArrayLike<number>, i: number): [number, boolean] {
  const first = bytes[i] ?? 0;
  const need = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  let length = 1;
  for (; length < need && i + length < bytes.length; length++) {
    const byte = bytes[i + length] ?? 0;
    // The second byte has narrower limits after some first ones: nothing overlong, no surrogate, none past U+10FFFF.
    const low = length > 1 ? 0x80 : ({ 0xe0: 0xa0, 0xf0: 0x90 }[first] ?? 0x80);
    const high = length > 1 ? 0xbf : ({ 0xed: 0x9f, 0xf4: 0x8f }[first] ?? 0xbf);
    if (byte < low || byte > high) break;
  }
  return [length, length === need];
}

/** A token as it is drawn everywhere: ␣like, ↵, ⟨</s>⟩, ⟨F0·9F⟩. */
export function shown(token: { id: number; text: string; bytes?: ArrayLike<number>; special?: boolean }): string {
  if (!token.bytes) return visible(token.text) || `⟨id·${token.id}⟩`;
  if (!token.bytes.length) return `⟨id·${token.id}⟩`;
  return visible(token.special ? `⟨${token.text}⟩` : characters(token.bytes));
}

/** At most so many characters, the middle left out where there are more: its start and its end tell a token apart. */
export function shortened(text: string, most: number): string {
  const all = [...text];
  if (all.length <= most) return text;
  const start = Math.ceil((most - 1) / 2);
  return `${all.slice(0, start).join("")}…${all.slice(all.length - (most - 1 - start)).join("")}`;
}

/** Three significant digits, ties to even, as Python's :.3g: 0.123, -12.3, 1,230, 1.2e-05. */
export function number(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  const sign = value < 0 ? "-" : "";
  if (size >= 1000 && size < 1e6) return sign + whole(roundEven(size, 0));
  if (size === 0) return "0";
  const [mantissa = "", power = "0"] = precise(size, 3).toExponential(2).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < 3) return sign + String(Number(precise(size, 3).toFixed(Math.max(0, 2 - exponent))));
  const digits = String(Number(mantissa));
  return `${sign}${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** A share as percent: 43.2 %, 0.05 %, and <0.001 % where three decimals would say nothing. */
export function percent(share: number): string {
  if (!Number.isFinite(share)) return number(share);
  const value = share * 100;
  const size = Math.abs(value); // a share of an error may be negative
  if (value > 0 && value < 0.001) return "<0.001\u00a0%";
  return `${size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(2)))}\u00a0%`;
}

/** 12,345 */
export const whole = (value: number): string => Math.round(value).toLocaleString("en-US");

/** 1 token, 2 tokens */
export const count = (amount: number, noun: string): string => `${whole(amount)} ${noun}${amount === 1 ? "" : "s"}`;

/** 4.2 MB */
export function bytes(size: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit++;
  }
  return `${unit && size < 100 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** 0.3 s, 2 min */
export const seconds = (time: number): string =>
  time < 0.1 ? "under 0.1 s" : time < 100 ? `${time < 10 ? time.toFixed(1) : Math.round(time)} s` : `${Math.round(time / 60)} min`;

function precise(size: number, digits: number): number {
  const exact = size.toExponential(99 > digits ? 60 : digits);
  const [mantissa = "", power] = exact.split("e");
  const rest = mantissa.replace(".", "").slice(digits);
  const last = Number(mantissa.replace(".", "")[digits - 1]);
  if (/^50*$/.test(rest) && last % 2 === 0) return Number(`${mantissa.slice(0, digits + 1)}e${power}`);
  return Number(size.toPrecision(digits));
}

function roundEven(size: number, decimals: number): number {
  const floor = Math.floor(size);
  if (decimals === 0 && size - floor === 0.5) return floor % 2 ? floor + 1 : floor;
  return Math.round(size);
}
