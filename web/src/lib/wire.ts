// The connection to the server: requests with channels and cancelling, answers and errors. It draws nothing.
import type { Ask, Asks } from "./answers";
import { type Frame, readFrame } from "./frames";

/** What the server refused, as a sentence: found, expected, what to do. */
export class Refused extends Error {
  constructor(readonly found: string, readonly expected: string, readonly remedy: string) {
    super(`found ${found}; expected ${expected}; ${remedy}`);
  }
}

/** A newer request on the same channel took this one's place, or the reader cancelled it. */
export class Cancelled extends Error {}

export interface Answer<A extends Ask> {
  answer: Asks[A]["gives"];
  tensors: Asks[A]["tensors"];
}
export interface Working { queue?: number; done?: number; total?: number; what?: string }
export interface Options {
  channel?: string;
  onworking?: (working: Working) => void;
}
interface Waiting {
  channel: string;
  frame: (frame: Frame) => void;
  fail: (error: Error) => void;
  onworking?: (working: Working) => void;
}
/** The part of WebSocket that is used: tests pass one of their own. */
export type Socket = Pick<WebSocket, "send" | "binaryType" | "onopen" | "onclose" | "onmessage">;

const LOST = ["no connection to the server", "a running cutaway serve", "start it again and reload the page"] as const;

export class Wire {
  private waiting = new Map<number, Waiting>();
  private next = 1;
  private opened: Promise<void>;
  private open = false;
  private ended = new Refused(...LOST);
  /** Called once, when the connection ends, with why. */
  onlost: (why: Refused) => void = () => {};
  /** Called with how many requests wait for their last answer, whenever that changes. */
  onpending: (count: number) => void = () => {};

  constructor(private socket: Socket) {
    socket.binaryType = "arraybuffer";
    this.opened = new Promise((resolve) => {
      socket.onopen = () => {
        this.open = true;
        resolve();
      };
    });
    socket.onmessage = (event: MessageEvent) => this.receive(event.data as string | ArrayBuffer);
    socket.onclose = () => this.lose();
  }

  /** The one answer to a request. Rejects with Refused or Cancelled. */
  ask<A extends Ask>(ask: A, args: Asks[A]["takes"], options: Options = {}): Promise<Answer<A>> {
    return new Promise((resolve, reject) => {
      this.send(ask, args, options, (frame) => resolve(frame as unknown as Answer<A>), reject);
    });
  }

  /** A streamed answer: `each` is called for every frame; resolves after the last. */
  stream<A extends Ask>(
    ask: A, args: Asks[A]["takes"], each: (answer: Answer<A>) => void, options: Options = {},
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const take = (frame: Frame) => {
        each(frame as unknown as Answer<A>);
        if (frame.last) resolve();
      };
      this.send(ask, args, options, take, reject);
    });
  }

  /** Drop what is running or queued on that channel. */
  cancel(channel: string): void {
    for (const [id, waiting] of this.waiting) if (waiting.channel === channel) this.drop(id);
  }

  private send(
    ask: Ask, args: object, options: Options, frame: Waiting["frame"], fail: Waiting["fail"],
  ): void {
    const id = this.next++;
    const channel = options.channel ?? `${ask} ${id}`;
    // The server cancels what is older on the channel; a late frame of it finds nobody here.
    for (const [older, waiting] of this.waiting)
      if (waiting.channel === channel) this.settle(older, new Cancelled(`a newer ${ask}`));
    this.waiting.set(id, { channel, frame, fail, onworking: options.onworking });
    this.onpending(this.waiting.size);
    const text = JSON.stringify({ id, ask, channel, ...args });
    if (this.open) this.socket.send(text);
    else this.opened.then(() => this.waiting.has(id) && this.socket.send(text));
  }

  private drop(id: number): void {
    if (!this.waiting.has(id)) return;
    this.settle(id, new Cancelled("cancelled"));
    if (this.open) this.socket.send(JSON.stringify({ id: this.next++, ask: "cancel", which: id }));
  }

  private settle(id: number, error: Error): void {
    const waiting = this.waiting.get(id);
    this.remove(id);
    waiting?.fail(error);
  }

  private remove(id: number): void {
    this.waiting.delete(id);
    this.onpending(this.waiting.size);
  }

  private receive(data: string | ArrayBuffer): void {
    if (typeof data !== "string") {
      const frame = readFrame(data);
      const waiting = this.waiting.get(frame.id);
      if (frame.last) this.remove(frame.id);
      waiting?.frame(frame);
      return;
    }
    const said = JSON.parse(data) as {
      id: number | null; queue?: number; progress?: Working; cancelled?: boolean;
      error?: { found: string; expected: string; do: string };
    };
    const refused = said.error && new Refused(said.error.found, said.error.expected, said.error.do);
    if (said.id === null) this.ended = refused ?? this.ended; // about the connection itself, which the server now closes
    else if (refused) this.settle(said.id, refused);
    else if (said.cancelled) this.settle(said.id, new Cancelled("cancelled"));
    else this.waiting.get(said.id)?.onworking?.(said.progress ?? { queue: said.queue });
  }

  private lose(): void {
    this.open = false;
    for (const id of [...this.waiting.keys()]) this.settle(id, this.ended);
    this.onlost(this.ended);
  }
}

/** A connection to the server that served this page. */
export function connect(): Wire {
  const address = new URL("ws", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  return new Wire(new WebSocket(address));
}
