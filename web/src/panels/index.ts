// What opens beside the river: the one list that the header's buttons come from.
import type { Component } from "svelte";

export interface Panel {
  /** Stands in the address. */
  id: string;
  /** On its button. */
  name: string;
  body: Component;
}

export const PANELS: Panel[] = [];
