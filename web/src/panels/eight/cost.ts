// What work with the other precision takes, in words, before it is done.
import type { Full } from "../../lib/answers";
import { bytes, seconds } from "../../lib/text";

/** "loads a second model: 538 MB; took 9 s last time"; figures that the server does not know are left out. */
export function cost(full: Full, what: "compare" | "damage"): string {
  const parts: string[] = [];
  if (!full.loaded) parts.push(`loads a second model: ${bytes(full.bytes)}`);
  const took = (full.loaded ? 0 : (full.seconds.load ?? 0)) + (full.seconds[what] ?? 0);
  if (full.seconds[what] !== null) parts.push(`took ${seconds(took)} last time`);
  else if (what === "damage") parts.push(`about half a pass for each of ${full.layers.length || "the"} layers: minutes, which can be stopped`);
  else parts.push("two passes");
  return parts.join("; ");
}
