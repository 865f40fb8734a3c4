// The stages of the river, in order: the one list that the page draws from.
import type { Component } from "svelte";
import type { Page } from "../lib/page.svelte";
import Text, { line as text } from "./1-Text.svelte";
import Embedding, { line as embedding } from "./2-Embedding.svelte";
import Blocks, { line as blocks } from "./3-Blocks.svelte";
import Attention, { line as attention } from "./4-Attention.svelte";
import Mlp, { line as mlp } from "./5-Mlp.svelte";
import Residual, { line as residual } from "./6-Residual.svelte";
import Logits, { line as logits } from "./7-Logits.svelte";
import Written, { line as written } from "./8-Written.svelte";

export interface Stage {
  number: number;
  name: string;
  /** What a closed stage says: one line of this run's own facts. Called only when there is a run. */
  line: (page: Page) => string;
  /** What an open stage shows. */
  body: Component;
}

export const STAGES: Stage[] = [
  { number: 1, name: "Text", line: text, body: Text },
  { number: 2, name: "Embedding", line: embedding, body: Embedding },
  { number: 3, name: "Blocks", line: blocks, body: Blocks },
  { number: 4, name: "Attention", line: attention, body: Attention },
  { number: 5, name: "MLP", line: mlp, body: Mlp },
  { number: 6, name: "Residual stream", line: residual, body: Residual },
  { number: 7, name: "Logits", line: logits, body: Logits },
  { number: 8, name: "Writing", line: written, body: Written },
];
