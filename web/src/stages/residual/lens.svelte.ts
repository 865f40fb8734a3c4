// The logit lens of a run, position by position: what the run brought, and what is asked for as it comes into view.
import { num } from "../../lib/answers";
import type { Page } from "../../lib/page.svelte";
import { Cancelled } from "../../lib/wire";

export interface Cell {
  id: number;
  text: string;
  prob: number;
}

export class Lens {
  readonly rows: number;
  readonly columns: number;
  error = $state.raw<Error | null>(null);
  private version = $state(0);
  private ids: Int32Array;
  private probs: Float32Array;
  private texts: Record<string, string>;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly atOnce: number; // positions of one request

  constructor(private page: Page) {
    const { answer, tensors } = page.run!;
    this.rows = tensors.lens_ids.shape[0] ?? 0;
    this.columns = answer.tokens.length;
    this.atOnce = Math.max(1, Math.floor(1024 / this.rows));
    this.ids = new Int32Array(this.rows * this.columns).fill(-1);
    this.probs = new Float32Array(this.rows * this.columns);
    this.texts = { ...answer.lens_texts };
    this.put(answer.window[0], tensors.lens_ids.data, tensors.lens_probs.data);
  }

  /** null: not there yet. */
  cell(row: number, column: number): Cell | null {
    void this.version;
    const at = row * this.columns + column;
    const id = this.ids[at] ?? -1;
    return id < 0 ? null : { id, text: this.texts[id] ?? `⟨id·${id}⟩`, prob: num(this.probs[at]) };
  }

  /** Ask for the first of these positions that are not there. Called when they come into view. */
  need(start: number, end: number): void {
    clearTimeout(this.timer);
    let first = start;
    while (first < end && this.ids[first]! >= 0) first++;
    if (first >= end) return;
    this.timer = setTimeout(() => this.ask(first, Math.min(this.columns, first + this.atOnce), start, end), 80);
  }

  private async ask(first: number, last: number, start: number, end: number): Promise<void> {
    try {
      const args = { run: this.page.run!.answer.run, start: first, end: last };
      const { answer, tensors } = await this.page.wire.ask("lens_grid", args, { channel: "lens_grid" });
      Object.assign(this.texts, answer.texts);
      this.put(answer.start, tensors.lens_ids.data, tensors.lens_probs.data);
      this.error = null;
      this.need(start, end);
    } catch (error) {
      if (!(error instanceof Cancelled)) this.error = error as Error;
    }
  }

  private put(start: number, ids: Int32Array, probs: Float32Array): void {
    const wide = ids.length / this.rows;
    for (let row = 0; row < this.rows; row++) {
      this.ids.set(ids.subarray(row * wide, (row + 1) * wide), row * this.columns + start);
      this.probs.set(probs.subarray(row * wide, (row + 1) * wide), row * this.columns + start);
    }
    this.version++;
  }
}
