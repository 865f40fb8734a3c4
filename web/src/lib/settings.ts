// The settings of a choice: the filters in the order in which they act, what their sliders mean, and what is sent.
// It does not know any probability.
import type { Settings } from "./answers";

export type FilterName = "repetition_penalty" | "temperature" | "top_k" | "top_p" | "min_p";

export interface Filter {
  name: FilterName;
  label: string;
  /** The value at which it changes nothing. */
  off: number;
  /** The values of its slider, from left to right. */
  stops: (vocab: number) => number[];
  said: (value: number) => string;
  about: string;
}

const two = (value: number) => value.toFixed(2);

export const FILTERS: Filter[] = [
  { name: "repetition_penalty", label: "Repetition penalty", off: 1, stops: () => range(0.8, 2, 0.02), said: two,
    about: "above 1, tokens that are in the text already lose" },
  { name: "temperature", label: "Temperature", off: 1, stops: () => range(0.05, 2, 0.05), said: two,
    about: "divides all logits: below 1 sharpens, above 1 flattens" },
  { name: "top_k", label: "Top-k", off: 0, stops: ranks, said: (k) => (k ? k.toLocaleString("en-US") : "all"),
    about: "keeps the k highest logits" },
  { name: "top_p", label: "Top-p", off: 1, stops: () => range(0.05, 1, 0.01), said: two,
    about: "keeps the most probable tokens that together reach p" },
  { name: "min_p", label: "Min-p", off: 0, stops: () => range(0, 0.5, 0.005), said: (p) => (p ? p.toFixed(3) : "off"),
    about: "keeps tokens that reach this share of the first one’s probability" },
];

/** Every filter at its value that changes nothing, and a draw. */
export const NEUTRAL: Required<Settings> = {
  repetition_penalty: 1, temperature: 1, top_k: 0, top_p: 1, min_p: 0, do_sample: true,
};
/** Where the page begins: the model's own probabilities, without the improbable tail. */
export const START: Required<Settings> = { ...NEUTRAL, top_p: 0.9 };

/** All settings, those that are not chosen as the page begins. What is no number of the right kind is left out. */
export function complete(chosen: Settings): Required<Settings> {
  const all = { ...START };
  for (const { name } of FILTERS) {
    const value = chosen[name];
    if (typeof value === "number" && Number.isFinite(value)) all[name] = value;
  }
  if (typeof chosen.do_sample === "boolean") all.do_sample = chosen.do_sample;
  return all;
}

/** What is sent: a min_p of 0 is none. */
export function sent(settings: Settings): Settings {
  const { min_p, ...rest } = complete(settings);
  return min_p ? { ...rest, min_p } : rest;
}

/** The settings that the model's own generation_config gives, as the page has them. */
export function published(sampling: Record<string, unknown>): Required<Settings> {
  const known = Object.fromEntries(Object.entries(sampling).map(([name, value]) => [name, value ?? undefined]));
  return complete({ ...NEUTRAL, ...known });
}

/** The slider's position for a value: its nearest stop. 0 of top-k stands at the end, where all are kept. */
export function positionOf(filter: Filter, value: number, vocab: number): number {
  const stops = filter.stops(vocab);
  if (filter.name === "top_k" && (value === 0 || value >= vocab)) return stops.length - 1;
  let best = 0;
  stops.forEach((stop, i) => { if (stop && Math.abs(stop - value) < Math.abs(stops[best]! - value)) best = i; });
  return best;
}

function range(from: number, to: number, step: number): number[] {
  const count = Math.round((to - from) / step);
  return Array.from({ length: count + 1 }, (_, i) => Number((from + i * step).toFixed(4)));
}

/** 1, 2, 3, … 10, 12, 15, 20, … below the whole vocabulary, then 0, which keeps all. */
function ranks(vocab: number): number[] {
  const found: number[] = [];
  for (let power = 1; power < vocab; power *= 10)
    for (const first of power === 1 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8])
      if (first * power < vocab) found.push(Math.round(first * power));
  return [...found, 0];
}
