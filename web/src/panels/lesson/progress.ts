// How far the reader is in the lesson, and what the river hides until then. It draws nothing.
import type { Page } from "../../lib/page.svelte";
import { steps } from "./steps";

/** Whether the lesson is open at a step about this stage. */
export function concerns(page: Page, stage: number): boolean {
  return page.panel === "lesson" && steps(page)[page.lesson]?.stage === stage;
}

/** Whether a closed stage keeps its line to itself: it would tell what the lesson has not asked yet. */
export function covered(page: Page, stage: number): boolean {
  if (page.panel !== "lesson") return false;
  const met = steps(page).map((step, i) => (page.guesses[i] == null ? 0 : step.stage));
  return stage > Math.max(1, ...met) && stage < 8;
}
