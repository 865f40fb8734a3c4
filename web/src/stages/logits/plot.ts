// Places of a distribution's curve on a drawing, and the words for a draw. It draws nothing.
import { type Candidate, type Curve, num, type Sampling } from "../../lib/answers";
import { count, percent, visible } from "../../lib/text";

/** A linear map of [from, to] onto [start, end]. */
export const linear = (from: number, to: number, start: number, end: number) => (value: number) =>
  start + ((value - from) / (to - from || 1)) * (end - start);

/** 1, 10, 100, … up to the most. */
export function decades(most: number): number[] {
  return Array.from({ length: Math.floor(Math.log10(most) + 1e-9) + 1 }, (_, i) => 10 ** i);
}

/** Powers of ten of a probability, from 0 down to the least, at most `count` of them. */
export function powers(least: number, count: number): number[] {
  const step = Math.max(1, Math.ceil(-least / count));
  return Array.from({ length: Math.floor(-least / step) + 1 }, (_, i) => (i === 0 ? 0 : -i * step));
}

/** 10⁻⁴ */
export function powerOfTen(power: number): string {
  if (power === 0) return "1";
  return `10${[...String(power)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("")}`;
}

/** Straight lines through the curve's points. */
export function linePath(curve: Curve, x: (rank: number) => number, y: (log: number) => number): string {
  return curve.rank
    .map((rank, i) => `${i ? "L" : "M"}${x(rank).toFixed(1)} ${y(num(curve.logprob[i]) / Math.LN10).toFixed(1)}`)
    .join("");
}

/** The cumulative probability as stairs, from 0 at rank 1. */
export function stairs(curve: Curve, x: (rank: number) => number, y: (share: number) => number): string {
  let path = `M${x(1).toFixed(1)} ${y(0).toFixed(1)}`;
  curve.rank.forEach((rank, i) => (path += `H${x(rank).toFixed(1)}V${y(num(curve.cumulative[i])).toFixed(1)}`));
  return path;
}

/** The curve's point nearest to a rank. */
export function nearest(curve: Curve, rank: number): number {
  let best = 0;
  curve.rank.forEach((each, i) => {
    if (Math.abs(Math.log(each / rank)) < Math.abs(Math.log(curve.rank[best]! / rank))) best = i;
  });
  return best;
}

/** The first point of the curve whose cumulative probability is above u: where the draw fell. */
export function fallsAt(curve: Curve, u: number): number {
  const found = curve.cumulative.findIndex((share) => num(share) > u);
  return found < 0 ? curve.rank.length - 1 : found;
}

/** The ranks, from 0, between which the drawn token stands: two neighbours on the curve. */
export function between({ draw, final_curve }: Sampling): [number, number] {
  if (draw.u === undefined) return [0, 0];
  const at = fallsAt(final_curve, draw.u);
  return [at ? final_curve.rank[at - 1]! : 0, (final_curve.rank[at] ?? 1) - 1];
}

export interface Part { id: number | null; text: string; start: number; end: number }

/** [0, 1) divided among the first candidates, in the order of the draw; the last part is all the others. */
export function parts(candidates: Candidate[]): Part[] {
  const found: Part[] = [];
  let start = 0;
  for (const { id, text, final } of candidates) {
    if (!(num(final) > 0)) break;
    found.push({ id, text, start, end: start + num(final) });
    start += num(final);
  }
  if (start < 1 - 1e-6) found.push({ id: null, text: "", start, end: 1 });
  return found;
}

/** "u = 0.414 falls in [0.395, 0.482): ␣the", with digits enough to see that it does. */
export function sentence(draw: Sampling["draw"]): string {
  const word = visible(draw.text);
  if (draw.u === undefined || draw.start === undefined || draw.end === undefined)
    return `The highest logit is taken, nothing is drawn: ${word}`;
  const values = [draw.u, draw.start, draw.end];
  let digits = 3;
  const rounded = () => values.map((value) => value.toFixed(digits));
  while (digits < 9 && new Set(rounded()).size < new Set(values).size) digits++;
  const [u, start, end] = rounded();
  return `u = ${u} falls in [${start}, ${end}): ${word}`;
}

/** What a filter did, in words: "removes 48,567 tokens with 10.0 %". */
export function effect(stage: Sampling["stages"][number]): string {
  if (stage.removed) return `removes ${count(stage.removed, "token")} with ${percent(num(stage.removed_prob))}`;
  return ["repetition_penalty", "temperature"].includes(stage.name) ? "moves the curve, removes none" : "removes none";
}
