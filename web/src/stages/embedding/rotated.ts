// Which query a block rotates. It knows the model's sites alone.
import type { Site } from "../../lib/answers";

/** The site that a block's rot_q is rotated from: q, or the normed one. null where the block rotates none. */
export function rotatedFrom(sites: readonly Site[], layer: number): string | null {
  const own = sites.find((site) => site.name === `blocks.${layer}.attn.rot_q`)?.parents[0];
  return own === undefined ? null : `blocks.${layer}.${own}`;
}
