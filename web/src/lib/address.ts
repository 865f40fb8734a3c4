// The state as the address's fragment and back: a reload, or the link sent on, restores the view and the prompt.
// What it reads was written by anyone: each part is checked, and a part that is none is left out.
import type { Edit, Settings } from "./answers";

export interface State {
  prompt: string;
  /** What stands beside the prompt in a batch. */
  second: string;
  /** Prompt A, which patches take values from. */
  otherPrompt: string;
  open: number[];
  /** The stages that stay open when another opens. */
  pinned: number[];
  focus: string;
  site: string;
  index: number[];
  panel: string;
  /** The texts of the token whose logit is split, and of the one that it is set against. */
  answer: string;
  against: string;
  /** How views are set, by name: what heads are sorted by. */
  views: Record<string, string>;
  lesson: number;
  guesses: (string | null)[];
  edits: Edit[];
  settings: Settings;
  seed: number;
}

/** The state of an address that says nothing. */
export const nothing = (): State => ({
  prompt: "", second: "", otherPrompt: "", open: [1], pinned: [], focus: "", site: "", index: [], panel: "", answer: "", against: "", views: {},
  lesson: 0, guesses: [], edits: [], settings: {}, seed: 0,
});

const TEXTS = ["prompt", "second", "otherPrompt", "focus", "site", "panel", "answer", "against"] as const;

/** The fragment, without #. What is empty is left out; open=0 is no open stage. */
export function write(state: Partial<State>): string {
  const parts = new URLSearchParams();
  for (const key of TEXTS) if (state[key]) parts.set(key, state[key]);
  if (state.open) parts.set("open", state.open.join(".") || "0");
  for (const key of ["pinned", "index"] as const) if (state[key]?.length) parts.set(key, state[key].join("."));
  const views = Object.entries(state.views ?? {}).filter(([, set]) => set).map(([name, set]) => `${name}.${set}`);
  if (views.length) parts.set("views", views.join("_"));
  for (const key of ["seed", "lesson"] as const) if (state[key]) parts.set(key, String(state[key]));
  if (state.guesses?.length) parts.set("guesses", JSON.stringify(state.guesses));
  if (state.edits?.length) parts.set("edits", JSON.stringify(state.edits));
  if (state.settings && Object.keys(state.settings).length) parts.set("settings", JSON.stringify(state.settings));
  return parts.toString();
}

export function read(fragment: string): Partial<State> {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const state: Partial<State> = {};
  for (const key of TEXTS) {
    const text = parts.get(key);
    if (text) state[key] = text;
  }
  for (const key of ["open", "pinned", "index"] as const) {
    const text = parts.get(key);
    if (text && /^\d{1,9}(\.\d{1,9})*$/.test(text)) state[key] = text.split(".").map(Number);
  }
  if (state.open) state.open = state.open.filter((stage) => stage > 0);
  const views = parts.get("views");
  if (views && /^[a-z]+\.[a-z0-9]+(_[a-z]+\.[a-z0-9]+)*$/.test(views))
    state.views = Object.fromEntries(views.split("_").map((each) => each.split(".", 2)));
  const seed = parts.get("seed");
  if (seed && /^\d{1,15}$/.test(seed)) state.seed = Number(seed);
  const lesson = parts.get("lesson");
  if (lesson && /^[0-7]$/.test(lesson)) state.lesson = Number(lesson);
  const guesses = json(parts.get("guesses"));
  if (Array.isArray(guesses) && guesses.length <= 8 && guesses.every(isGuess)) state.guesses = guesses;
  const edits = json(parts.get("edits"));
  if (Array.isArray(edits)) state.edits = edits.filter(isEdit);
  const settings = json(parts.get("settings"));
  if (isObject(settings)) state.settings = settings as Settings;
  return state;
}

/** The reader's token of a server that has one, taken out of the address: a link sent on does not carry it. */
export function takeToken(): string | undefined {
  const parts = new URLSearchParams(location.hash.replace(/^#/, ""));
  const token = parts.get("token");
  if (token === null) return sessionStorage.getItem("token") ?? undefined;
  sessionStorage.setItem("token", token); // for a reload in the same tab
  parts.delete("token");
  history.replaceState(null, "", `#${parts}`);
  return token;
}

function json(text: string | null): unknown {
  try {
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isEdit = (value: unknown): value is Edit =>
  isObject(value) && typeof value.site === "string" && typeof value.op === "string";
const isGuess = (value: unknown) => value === null || (typeof value === "string" && value.length <= 80);
