// The list of changes to the model's values: named, each on or off, with every earlier list kept for undo. Nothing here
// changes a list in place, and it does not know how an edit acts.
import type { Edit } from "./answers";

export interface Change {
  name: string;
  on: boolean;
  edit: Edit;
}
/** A list as it was after something was done. */
export interface Moment {
  did: string;
  changes: readonly Change[];
}
/** All lists so far, and which of them is the present one. */
export interface History {
  moments: readonly Moment[];
  now: number;
}

/** In an edit's `from`: the other prompt's run, whatever its name is when the edit runs. */
export const OTHER = "other";

export const begun = (changes: readonly Change[] = [], did = "Nothing changed"): History => ({
  moments: [{ did, changes }],
  now: 0,
});
export const changesOf = (history: History): readonly Change[] => history.moments[history.now]!.changes;
/** The edits that act, in order. */
export const active = (history: History): Edit[] => changesOf(history).filter((each) => each.on).map((each) => each.edit);

/** After another step; what had been undone is gone. */
export function done(history: History, did: string, changes: readonly Change[]): History {
  const moments = [...history.moments.slice(0, history.now + 1), { did, changes }];
  return { moments, now: moments.length - 1 };
}
/** At another moment: undo is now − 1, redo now + 1. Outside, it stays. */
export const at = (history: History, now: number): History => (history.moments[now] ? { ...history, now } : history);

/** The list in the address: each edit with its name, and that it is off. */
export const asAddress = (changes: readonly Change[]): Edit[] =>
  changes.map(({ name, on, edit }) => ({ ...edit, ...(name === said(edit) ? {} : { name }), ...(on ? {} : { off: true }) }));

export const fromAddress = (edits: readonly Edit[]): Change[] =>
  edits.map(({ name, off, ...rest }) => {
    const edit = rest as Edit;
    return { name: typeof name === "string" ? name : said(edit), on: off !== true, edit };
  });

/** The edits as the server takes them: `other` is the run of that name. */
export const sent = (edits: readonly Edit[], other: string | undefined): Edit[] =>
  edits.map((edit) => (edit.from === OTHER && other !== undefined ? { ...edit, from: other } : edit));

/** An edit in words, as Python's str(edit): "zero on blocks.9.attn.z at head 9". */
export function said(edit: Edit): string {
  const { site, op, value, from, from_position, ...where } = edit;
  const places = ["block", "head", "expert", "neuron", "position", "source", "step", "text"]
    .filter((name) => where[name] !== undefined && where[name] !== null)
    .map((name) => `${name} ${listed(where[name])}`);
  const amount = Array.isArray(value) ? ` ${shape(value)}` : ["number", "string"].includes(typeof value) ? ` ${value}` : "";
  const taken = from === OTHER ? " from the other prompt" : typeof from === "string" ? ` from ${from}` : "";
  const there = from_position === undefined ? "" : `, position ${from_position} there`;
  return `${op}${amount} on ${site}${places.length ? ` at ${places.join(", ")}` : ""}${taken}${there}`;
}

const listed = (value: unknown): string => (Array.isArray(value) ? value.slice(0, 6).join(", ") : String(value));
const shape = (value: unknown): string => {
  const sizes: number[] = [];
  for (let part = value; Array.isArray(part); part = part[0]) sizes.push(part.length);
  return `[${sizes.join(", ")}]`;
};
