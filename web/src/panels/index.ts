// What opens beside the river: the one list that the header's buttons come from.
import type { Component } from "svelte";
import Lesson from "./Lesson.svelte";

export interface Panel {
  /** Stands in the address. */
  id: string;
  /** On its button. */
  name: string;
  body: Component;
  /** On a narrow page it leaves the stage above it in view. */
  low?: boolean;
}

export const PANELS: Panel[] = [
  { id: "lesson", name: "Lesson", body: Lesson, low: true },
];
