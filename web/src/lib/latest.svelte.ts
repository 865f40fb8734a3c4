// One question asked over and over with other arguments, as a slider moves: one request at a time, then the newest.
// The last answer stays until the next is there. It does not know what is asked.
import type { Ask, Asks } from "./answers";
import { Cancelled, type Wire } from "./wire";

export class Latest<A extends Ask> {
  /** The newest answer, and the arguments that it answers. */
  shown = $state.raw<{ args: Asks[A]["takes"]; answer: Asks[A]["gives"] } | null>(null);
  error = $state.raw<Error | null>(null);
  private next: Asks[A]["takes"] | null = null;
  private running = false;

  constructor(private wire: Wire, private ask: A, private channel: string) {}

  /** Ask this next; what waited is no longer wanted. A request under way is left to finish: dragging shows each. */
  async want(args: Asks[A]["takes"]): Promise<void> {
    this.next = args;
    if (this.running) return;
    this.running = true;
    try {
      while (this.next) await this.one();
    } finally {
      this.running = false;
    }
  }

  private async one(): Promise<void> {
    const args = this.next!;
    this.next = null;
    try {
      const { answer } = await this.wire.ask(this.ask, args, { channel: this.channel });
      this.shown = { args, answer };
      this.error = null;
    } catch (error) {
      if (!(error instanceof Cancelled)) this.error = error as Error;
    }
  }
}
