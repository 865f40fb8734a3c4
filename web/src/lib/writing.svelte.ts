// The texts that the model has written after this run's prompt: as they stream, and their forks. It draws nothing.
import type { Asks, Edit, Settings, Token, Written, WrittenStep } from "./answers";
import { Cancelled, type Wire, type Working } from "./wire";

/** Where a text branched off another: before its step, with another token there. */
export interface Fork {
  parent: Text;
  step: number;
}
type Prompt = { run: string } | { text: string; chat: true };
/** What a fork's cache held before, how many of those tokens were kept, and how many were read again. */
export interface Rewound { held: number; kept: number; again: number }

/** One text, as far as it is written. */
export class Text {
  name = $state("");
  prompt = $state.raw<Token[]>([]);
  steps = $state.raw<WrittenStep[]>([]);
  running = $state(true);
  seconds = $state<number | null>(null);
  python = $state("");
  cache = $state.raw<Rewound | null>(null);

  constructor(readonly settings: Settings, readonly seed: number, readonly most: number, readonly fork: Fork | null) {}

  /** How many forks lie between it and the first text. */
  get depth(): number {
    return this.fork ? this.fork.parent.depth + 1 : 0;
  }

  get words(): string {
    return this.steps.map((step) => step.text).join("");
  }

  /** What it has after the place where it branched off. */
  get own(): string {
    return this.steps.slice(inherited(this)).map((step) => step.text).join("");
  }

  take(frame: Written): void {
    if (frame.generation) this.name = frame.generation;
    if (frame.prompt) this.prompt = frame.prompt;
    if (this.fork && frame.held !== undefined && frame.kept !== undefined) {
      const read = this.prompt.length + this.fork.step; // before the forced token's own pass
      this.cache = { held: frame.held, kept: frame.kept, again: read - frame.kept };
    }
    if (frame.step) this.steps = [...this.steps, frame.step];
    if (frame.seconds !== undefined) this.seconds = frame.seconds;
    if (frame.python) this.python = frame.python;
  }
}

export class Writing {
  texts = $state.raw<Text[]>([]);
  /** The text that is shown. */
  shown = $state.raw<Text | null>(null);
  /** It and the text that it branched off, side by side. */
  pair = $state.raw<Text[]>([]);
  /** Its step that is open. */
  step = $state<number | null>(null);
  error = $state.raw<Error | null>(null);
  working = $state.raw<Working | null>(null);

  constructor(private wire: Wire) {}

  get running(): boolean {
    return this.texts.some((text) => text.running);
  }

  /** most: new tokens. */
  write(from: Prompt, settings: Settings, seed: number, most: number, edits: Edit[]): Promise<void> {
    const text = new Text(settings, seed, most, null);
    const given = edits.length ? { edits } : {};
    return this.stream(text, "generate", { ...from, ...given, settings, seed, max_new_tokens: most });
  }

  /** Another token at a step of a text, and what follows it, with the settings of that text. */
  fork(parent: Text, step: number, token: number): Promise<void> {
    const { settings, seed, most, name } = parent;
    const text = new Text(settings, seed, most, { parent, step });
    return this.stream(text, "fork", { generation: name, step, token, settings, seed, max_new_tokens: most });
  }

  stop(): void {
    this.wire.cancel("write");
  }

  clear(): void {
    this.stop();
    [this.texts, this.error] = [[], null];
    this.show(null);
  }

  show(text: Text | null, step: number | null = null): void {
    [this.shown, this.step] = [text, step];
    if (!text) this.pair = [];
    else if (!this.pair.includes(text)) this.pair = text.fork ? [text.fork.parent, text] : [text];
  }

  private async stream<A extends "generate" | "fork">(text: Text, ask: A, args: Asks[A]["takes"]): Promise<void> {
    this.error = null;
    this.texts = [...this.texts, text];
    this.show(text);
    this.working = {};
    const arrived: Written[] = []; // taken once a frame: tokens may come faster than a long text is drawn
    const take = () => arrived.splice(0).forEach((frame) => text.take(frame));
    try {
      const onworking = (working: Working) => (this.working = working);
      const each = ({ answer }: { answer: object }) => arrived.push(answer as Written) === 1 && requestAnimationFrame(take);
      await this.wire.stream(ask, args, each, { channel: "write", onworking }).finally(take);
    } catch (error) {
      if (!(error instanceof Cancelled)) this.error = error as Error;
      if (!text.steps.length) this.drop(text);
    } finally {
      text.running = false;
      this.working = null;
    }
  }

  private drop(text: Text): void {
    this.texts = this.texts.filter((each) => each !== text);
    if (this.shown === text) this.show(this.texts.at(-1) ?? null);
  }
}

/** How many first tokens a text has from the one that it branched off. */
export const inherited = (text: Text): number => text.fork?.step ?? 0;

/** The texts as a tree: each fork after the text that it branched off. */
export function inOrder(texts: Text[], parent: Text | null = null): Text[] {
  const children = texts.filter((text) => (text.fork?.parent ?? null) === parent);
  return children.flatMap((text) => [text, ...inOrder(texts, text)]);
}
