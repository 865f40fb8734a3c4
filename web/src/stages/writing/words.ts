// Written texts in words, and how strong a probability is coloured. It draws nothing.
import type { Settings } from "../../lib/answers";
import { complete, FILTERS } from "../../lib/settings";
import { bytes, count, visible } from "../../lib/text";
import type { Rewound, Text } from "../../lib/writing.svelte";

/** Where a probability stands on the page's colour scale: so that text on it stays readable, certainty is half of it. */
export const strength = (prob: number): number => 0.5 * Math.max(0, Math.min(1, prob));

/** "Drawn, temperature 0.80, top-p 0.90, seed 0" */
export function inWords(settings: Settings, seed: number): string {
  const all = complete(settings);
  if (!all.do_sample) return all.repetition_penalty === 1 ? "The highest logit each time" : `The highest logit, repetition penalty ${all.repetition_penalty}`;
  const set = FILTERS.filter((each) => all[each.name] !== each.off).map((each) => `${each.label.toLowerCase()} ${each.said(all[each.name])}`);
  return ["Drawn", ...set, `seed ${seed}`].join(", ");
}

/** "Original", or "␣London instead of ␣Paris at token 3" */
export function title(text: Text, texts: Text[]): string {
  if (!text.fork) {
    const firsts = texts.filter((each) => !each.fork);
    return firsts.length > 1 ? `Text ${firsts.indexOf(text) + 1}` : "Original";
  }
  const { parent, step } = text.fork;
  const [here, there] = [text.steps[step], parent.steps[step]].map((each) => (each ? visible(each.piece ?? each.text) : "…"));
  return `“${here}” instead of “${there}” at token ${step + 1}`;
}

/** A text on one line, to be read: its spaces as they are. */
export const oneLine = (words: string): string => visible(words).replaceAll("␣", " ").trim();

/** What happened to the cache at a fork. */
export function rewinding({ before, kept, again }: Rewound): string {
  const start = `The cache held ${count(before, "token")}; it was rewound to ${kept}, not recomputed.`;
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
  if (!ended) return "stopped";
  return { length: "its length is reached", eos: "the model ended it", context: "the context is full" }[String(ended)] ?? String(ended);
}
