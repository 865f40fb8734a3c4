// Edits made from what is looked at: a head, a neuron, a position, one number. It knows sites by name only.
import type { Edit } from "../../lib/answers";
import type { Place } from "../../lib/focus.svelte";

export interface Offer {
  words: string;
  edit: Edit;
}
/** What is done where: "zero", or "scale" with a factor. */
export interface How {
  op: string;
  value?: number;
}

/** What can be changed at a chosen token, layer and head, and at a number that is looked into. */
export function offers(place: Place, number: { site: string | null; index: number[] }, how: How): Offer[] {
  const found: Offer[] = [];
  const offer = (words: string, site: string, where: Record<string, number>) =>
    found.push({ words, edit: { site, ...how, ...where } });
  const block = /^blocks\.(\d+)\./.exec(number.site ?? "")?.[1];
  const [first = 0, second = 0, third] = number.index;
  if (number.site?.endsWith(".mlp.post")) {
    if (third === undefined) offer(`neuron ${second} of block ${block}`, number.site, { neuron: second });
    else offer(`neuron ${third} of expert ${second}, block ${block}`, number.site, { expert: second, neuron: third });
  }
  if (/\.mlp\.router_(logits|scores)$/.test(number.site ?? ""))
    offer(`expert ${second} of block ${block}`, `blocks.${block}.mlp.router_scores`, { expert: second });
  const ofHead = /\.attn\.(scores|pattern|z|q|rot_q)$/.exec(number.site ?? "")?.[1];
  if (ofHead) {
    const head = ofHead === "scores" || ofHead === "pattern" ? first : second;
    offer(`head ${head} of block ${block}`, `blocks.${block}.attn.z`, { head });
  } else if (place.layer !== null && place.head !== null)
    offer(`head ${place.head} of block ${place.layer}`, `blocks.${place.layer}.attn.z`, { head: place.head });
  if (place.token !== null && place.layer !== null)
    offer(`position ${place.token} after block ${place.layer}`, `blocks.${place.layer}.resid_post`, { position: place.token });
  if (place.token !== null) offer(`the embedding of position ${place.token}`, "embed.token", { position: place.token });
  return found;
}

/** What can be done with an expert of a mixture, as its words. */
export const OF_EXPERT = { forbid: "forbid it", force: "force it, with the score", scale: "scale its score by" } as const;

/** Forbidden by its logit, before experts are chosen; forced and reweighed by its score, after. */
export function ofExpert(what: keyof typeof OF_EXPERT, block: string, value: number): Edit {
  const site = (of: string) => `blocks.${block}.mlp.router_${of}`;
  if (what === "forbid") return { site: site("logits"), op: "set", value: "-inf" };
  return { site: site("scores"), op: what === "force" ? "set" : "scale", value };
}

/** A number typed, or undefined where the field is empty. */
export const typed = (text: string): number | undefined => (text.trim() === "" ? undefined : Number(text));
