// The page's state: the connection, the model, the prompt and its run, what is open. Every view reads it from here;
// it draws nothing.
import { getContext, setContext } from "svelte";
import * as address from "./address";
import type { Edit, Hello, Settings, Word } from "./answers";
import * as changes from "./changes";
import type { Scale, Theme } from "../draw/colours";
import { Focus } from "./focus.svelte";
import type { Tensor } from "./frames";
import { joined, scaleOf, type Summary, summary } from "../draw/statistics";
import { Writing } from "./writing.svelte";
import { type Answer, Cancelled, connect, Refused, type Wire, type Working } from "./wire";

const KEPT = 64; // arrays of the run that stay in the tab; the one not used for longest goes first

/** An array of the run with what its legend says. */
export interface Known {
  tensor: Tensor<Float32Array>;
  axes: string[];
  summary: Summary;
  scale: Scale;
  python: string;
}

export class Page {
  readonly focus = new Focus();
  readonly writing: Writing;
  hello = $state.raw<Hello | null>(null);
  /** The run that is shown. Replaced as a whole when the next one is there. */
  run = $state.raw<Answer<"run"> | null>(null);
  prompt = $state("");
  /** The prompt that `run` ran. */
  ran = $state("");
  /** What stands beside the prompt in a batch. */
  second = $state("");
  /** Prompt A, which patches take values from. */
  otherPrompt = $state("");
  /** Changes to the model's values: `run` has those that are on. */
  history = $state.raw(changes.begun());
  /** The run of the same prompt with no change; `run` itself where there is none. */
  original = $state.raw<Answer<"run"> | null>(null);
  /** The run of prompt A, and the text that it ran. */
  other = $state.raw<Answer<"run"> | null>(null);
  otherRan = $state("");
  /** The token whose logit is split, and the one that it is set against; null: the most probable one, and none. */
  answer = $state.raw<Word | null>(null);
  against = $state.raw<Word | null>(null);
  settings = $state<Settings>({});
  seed = $state(0);
  open = $state<number[]>([1]);
  pinned = $state<number[]>([]);
  panel = $state("");
  /** How views are set, by name; in the address. A view takes what it does not know as its first setting. */
  views = $state<Record<string, string>>({});
  /** The lesson's step, from 0, and the guess at each; "" where its answer was shown without one. */
  lesson = $state(0);
  guesses = $state<(string | null)[]>([]);
  working = $state<Working | null>(null);
  pending = $state(0); // requests that wait for their answer
  error = $state.raw<Error | null>(null);
  theme = $state<Theme | "auto">("auto");
  private systemDark = $state(false);
  private linked = false; // the state is an address's, and its prompt has not run yet
  private texts = $state.raw({ answer: "", against: "" }); // of the address, until the tokenizer has said which tokens they are
  private known = new Map<string, Promise<Known>>();

  constructor(readonly wire: Wire = connect()) {
    this.writing = new Writing(wire);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    this.systemDark = dark.matches;
    dark.addEventListener("change", () => (this.systemDark = dark.matches));
    wire.onlost = (why) => (this.error = why);
    // After what asks: a $derived value may ask, and may not change state while it is computed.
    wire.onpending = (count) => queueMicrotask(() => (this.pending = count));
    this.restore(address.read(location.hash));
  }

  /** Light or dark, as drawn. */
  get drawn(): Theme {
    return this.theme === "auto" ? (this.systemDark ? "dark" : "light") : this.theme;
  }

  get tokens() {
    return this.run?.answer.tokens ?? [];
  }

  /** The position that views show: the chosen one, else the last. */
  get token(): number {
    return this.focus.token ?? this.tokens.length - 1;
  }

  /** Its column in what holds the run's window of positions alone (lens_*, top_*); null where it is outside. */
  get windowed(): number | null {
    const [start, end] = this.run?.answer.window ?? [0, this.tokens.length];
    return this.token < start || this.token >= end ? null : this.token - start;
  }

  /** The first request, then the prompt of the address, or the model's example. */
  async start(): Promise<void> {
    await this.guarded(async () => {
      const { answer } = await this.wire.ask("hello", { token: address.takeToken() });
      this.hello = answer;
      this.prompt ||= answer.example;
      await this.send();
    });
  }

  /** The edits that act, as recipes write them. */
  get edits(): Edit[] {
    return changes.active(this.history);
  }

  set edits(edits: Edit[]) {
    this.history = changes.begun(changes.fromAddress(edits), edits.length ? "From the address" : undefined);
  }

  /** Run the prompt: one watched pass, with the changes beside the pass without. A newer one cancels it.
   * again: the prompt as it stands, though it was run before; else the one that was run, with the changes of now. */
  async send(again = true): Promise<void> {
    const linked = this.linked;
    this.linked = false;
    await this.guarded(async () => {
      await this.findWords();
      const [text, edits] = [again || !this.run ? this.prompt : this.ran, this.edits];
      let answers: Awaited<ReturnType<Page["asked"]>>;
      try {
        answers = await this.asked(text, edits, again);
      } catch (error) {
        if (!(error instanceof Refused && / is gone$/.test(error.found))) throw error;
        answers = await this.asked(text, edits, true); // the server keeps the last few runs only
      }
      const [original, run] = answers;
      const { n_layers, n_heads } = this.hello!.model;
      if (this.run && !linked) { // an address's focus, number and guesses are about its own prompt
        if (this.token === this.tokens.length - 1) this.focus.token = null; // the last stays the last
        if (text !== this.ran) {
          this.focus.close();
          this.guesses = []; // they were about the other sentence
          delete this.views.draw; // its text begins at the first draw of the seed
        }
      }
      this.focus.fit(run.answer.tokens.length, n_layers, n_heads);
      if (run === this.run) return;
      for (const key of [...this.known.keys()]) if (!key.startsWith(`${original.answer.run} `)) this.known.delete(key);
      this.writing.clear(); // its texts go on from the run before
      this.ran = text;
      [this.original, this.run] = [original, run];
    });
  }

  /** The address's answer and against as tokens; what is no single token is left out. */
  private async findWords(): Promise<void> {
    const texts = this.texts;
    this.texts = { answer: "", against: "" };
    for (const key of ["answer", "against"] as const) {
      if (!texts[key]) continue;
      const { answer } = await this.wire.ask("tokens", { texts: [texts[key]], special: false }, { channel: key });
      const [piece, more] = answer.texts[0]?.pieces ?? [];
      if (piece && !more) this[key] = { id: piece.id, text: texts[key] };
    }
  }

  /** Another list of changes, run at once; one that the server refuses is not kept. */
  async change(did: string, list: readonly changes.Change[]): Promise<void> {
    const before = this.history;
    this.history = changes.done(before, did, list);
    await this.send(false);
    if (this.error) this.history = before;
  }

  /** The two prompts change places and the one above runs. The changes were to the other one's pass: a new list begins. */
  async swap(): Promise<void> {
    const before = this.history;
    [this.prompt, this.otherPrompt] = [this.otherPrompt, this.prompt];
    this.history = changes.begun([], "Swapped the prompts");
    await this.send();
    if (this.error) this.history = before;
  }

  /** Undo, redo, or back to any list before. */
  async travel(now: number): Promise<void> {
    this.history = changes.at(this.history, now);
    await this.send(false);
  }

  /** Run prompt A, unless that text ran already. again: though it did. */
  async runOther(text = this.otherPrompt, again = false): Promise<Answer<"run">> {
    if (again || this.other === null || this.otherRan !== text) {
      this.other = await this.wire.ask("run", { text }, { channel: "other" });
      this.otherRan = text;
    }
    return this.other;
  }

  /** The edits that act, as the server takes them: a patch from the other prompt by the name of its run. */
  async sent(again = false): Promise<Edit[]> {
    const other = patched(this.edits) ? await this.runOther(this.otherRan || this.otherPrompt, again) : undefined;
    return changes.sent(this.edits, other?.answer.run);
  }

  private async asked(text: string, edits: Edit[], again: boolean): Promise<[original: Answer<"run">, run: Answer<"run">]> {
    const options = { channel: "run", onworking: (working: Working) => (this.working = working) };
    const kept = !again && text === this.ran ? this.original : null;
    const original = kept ?? (await this.wire.ask("run", { text }, options));
    if (!edits.length) return [original, original];
    const args = { text, edits: await this.sent(again), base: original.answer.run };
    return [original, await this.wire.ask("run", args, options)];
  }

  cancel(): void {
    this.wire.cancel("run");
    this.working = null;
  }

  /** The values at a site of the run, or of another one, kept. A head is one [T,S] of scores or pattern. */
  values(site: string, head?: number, run = this.run?.answer.run): Promise<Known> {
    if (run === undefined) return Promise.reject(new Cancelled("no run"));
    const key = `${run} ${site} ${head ?? ""}`;
    const known = this.known.get(key) ?? this.fetched(run, site, head);
    this.known.delete(key);
    this.known.set(key, known);
    known.catch(() => this.known.delete(key));
    const oldest = this.known.keys().next().value;
    if (this.known.size > KEPT && oldest !== undefined) this.known.delete(oldest);
    return known;
  }

  /** Open a stage, or close it. What is not pinned closes when another opens. */
  toggle(stage: number): void {
    const kept = this.open.filter((each) => this.pinned.includes(each) && each !== stage);
    this.open = this.open.includes(stage) ? this.open.filter((each) => each !== stage) : [...kept, stage].sort();
    if (!this.open.includes(stage)) this.pinned = this.pinned.filter((each) => each !== stage);
  }

  /** Do work whose failure is a sentence on the page; a cancelled request is none. */
  async guarded(work: () => Promise<void>): Promise<void> {
    this.error = null;
    this.working = {};
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Cancelled)) this.error = error as Error;
      else return; // the newer request shows its own progress
    }
    this.working = null;
  }

  /** What the address's fragment says. */
  get fragment(): string {
    const { prompt, second, open, pinned, panel, lesson, seed, focus } = this;
    const site = focus.site ?? "";
    const otherPrompt = (patched(this.edits) && this.otherRan) || this.otherPrompt; // a link's patches take from the same text
    const edits = changes.asAddress(changes.changesOf(this.history));
    const [settings, guesses] = [$state.snapshot(this.settings), $state.snapshot(this.guesses)];
    const state = { prompt, second, otherPrompt, open, pinned, panel, lesson, guesses, seed, edits, settings, focus: focus.words, site };
    const [answer, against] = [this.texts.answer || this.answer?.text, this.texts.against || this.against?.text];
    return address.write({ ...state, answer, against, index: focus.index, views: this.views });
  }

  /** The state of an address, and of nothing else: what it does not say is as the page begins. */
  restore(state: Partial<address.State>): void {
    const { focus, site, index, answer, against, ...own } = { ...address.nothing(), ...state };
    const texts = { answer, against };
    for (const key of ["answer", "against"] as const)
      if (this[key] && texts[key] === this[key].text) texts[key] = "";
      else this[key] = null;
    this.texts = texts;
    Object.assign(this, own);
    if (this.otherPrompt !== this.otherRan) [this.other, this.otherRan] = [null, ""];
    this.prompt ||= this.hello?.example ?? "";
    this.linked = true;
    this.focus.words = focus;
    if (site) this.focus.open(site, index);
    else this.focus.close();
  }

  private async fetched(run: string, site: string, head: number | undefined): Promise<Known> {
    const before = this.original?.answer.run ?? run;
    const [{ answer, tensors }, original] = await Promise.all([
      this.wire.ask("values", { run, site, head }), before === run ? null : this.values(site, head, before),
    ]);
    const found = summary(tensors.values.data);
    // A changed run is drawn on the original's scale, which grows where its values go beyond.
    const scale = scaleOf(original ? joined(original.summary, found) : found);
    return { tensor: tensors.values, axes: answer.axes, summary: found, scale, python: answer.python ?? "" };
  }
}

/** Whether one of the edits takes its value from prompt A. */
const patched = (edits: Edit[]): boolean => edits.some((each) => each.from === changes.OTHER);

export const setPage = (page: Page): Page => setContext("page", page);
/** The page that this view is part of. */
export const getPage = (): Page => getContext("page");
