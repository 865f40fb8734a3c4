// Written texts in words, and how strong a probability is coloured. It draws nothing.
import type { Settings } from "../../lib/answers";
import { complete, FILTERS } from "../../lib/settings";
import { bytes, count, visible } from "../../lib/text";
import type { Rewound, Text } from "../../lib/writing.svelte";

/** Where a probability stands on the page's colour scale: certainty at its half, so that text on it stays readable. */
export const strength = (prob: number): number => 0.5 * Math.max(0, Math.min(1, prob));

/** "Drawn, temperature 0.80, top-p 0.90, seed 0" */
export function inWords(settings: Settings, seed: number): string {
  const all = complete(settings);
  const acting = FILTERS.filter(({ name, off }) => all[name] !== off && (all.do_sample || name === "repetition_penalty"));
  const set = acting.map(({ label, name, said }) => `${label.toLowerCase()} ${said(all[name])}`);
  return (all.do_sample ? ["Drawn", ...set, `seed ${seed}`] : ["The highest logit each time", ...set]).join(", ");
}

/** "Original", or "␣London instead of ␣Paris at token 3" */
export function title(text: Text, texts: Text[]): string {
  if (!text.fork) {
    const firsts = texts.filter((each) => !each.fork);
    return firsts.length > 1 ? `Text ${firsts.indexOf(text) + 1}` : "Original";
  }
  const { parent, step } = text.fork;
  const [here, there] = [text, parent].map(({ steps }) => visible(steps[step]?.piece ?? steps[step]?.text ?? "…"));
  return `“${here}” instead of “${there}” at token ${step + 1}`;
}

/** A text on one line, to be read: its spaces as they are. */
export const oneLine = (words: string): string => visible(words).replaceAll("␣", " ").trim();

/** What happened to the cache at a fork. */
export function rewinding({ held, kept, again }: Rewound): string {
  if (!kept) return `The cache held nothing that could be kept: ${count(again, "token")} were read again.`;
  const start = `The cache held ${count(held, "token")}; it was rewound to ${kept}, not recomputed.`;
  return again ? `${start} The ${count(again, "token")} after them belong to another fork and were read again.` : start;
}

/** "23 tokens, 1.1 MB: 46 kB a token" */
export function cacheSize(tokens: number, size: number): string {
  return `${count(tokens, "token")}, ${bytes(size)}: ${bytes(size / Math.max(1, tokens))} a token`;
}

/** Why it ended, in words. */
export function ending(text: Text): string {
  if (text.running) return "";
  const ended = text.steps.at(-1)?.ended;
  const words: Record<string, string> = {
    length: "its length is reached", eos: "the model ended it", context: "the context is full", stop: "a stop string is reached",
  };
  return ended ? (words[ended] ?? ended) : "stopped";
}
