// What opens beside the river: the one list that the header's buttons come from.
import type { Component } from "svelte";
import ChangeIt from "./ChangeIt.svelte";
import EightBits from "./EightBits.svelte";
import Lesson from "./Lesson.svelte";
import AnyNumber from "./Number.svelte";

export interface Panel {
  /** Stands in the address. */
  id: string;
  /** On its button. */
  name: string;
  body: Component;
  /** Takes about half of the page. */
  wide?: boolean;
  /** On a narrow page it leaves the stage above it in view. */
  low?: boolean;
}

export const PANELS: Panel[] = [
  { id: "lesson", name: "Lesson", body: Lesson, low: true },
  { id: "eight", name: "8 bits", body: EightBits, wide: true },
  { id: "change", name: "Change it", body: ChangeIt, wide: true },
  { id: "number", name: "Any number", body: AnyNumber },
];
