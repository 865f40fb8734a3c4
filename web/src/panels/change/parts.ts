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
  const [first = 0, second = 0] = number.index;
  if (number.site?.endsWith(".mlp.post")) offer(`neuron ${second} of block ${block}`, number.site, { neuron: second });
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

/** A number typed, or undefined where the field is empty. */
export const typed = (text: string): number | undefined => (text.trim() === "" ? undefined : Number(text));
