import { describe, expect, it } from "vitest";
import { Cancelled, Refused, type Socket, Wire } from "../src/lib/wire";

class Fake implements Socket {
  sent: { id: number; ask: string; channel?: string; which?: number }[] = [];
  binaryType: BinaryType = "blob";
  onopen: Socket["onopen"] = null;
  onclose: Socket["onclose"] = null;
  onmessage: Socket["onmessage"] = null;
  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }
  open(): void {
    (this.onopen as () => void)();
  }
  say(data: object | ArrayBuffer): void {
    const sent = data instanceof ArrayBuffer ? data : JSON.stringify(data);
    (this.onmessage as (event: { data: unknown }) => void)({ data: sent });
  }
  answer(id: number, answer: object, last = true): void {
    const header = new TextEncoder().encode(
      JSON.stringify({ __metadata__: { id: String(id), last: String(last), answer: JSON.stringify(answer) } }),
    );
    const bytes = new Uint8Array(8 + header.length);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
    bytes.set(header, 8);
    this.say(bytes.buffer);
  }
}

async function opened(): Promise<{ socket: Fake; wire: Wire }> {
  const socket = new Fake();
  const wire = new Wire(socket);
  socket.open();
  await Promise.resolve();
  return { socket, wire };
}

describe("requests", () => {
  it("wait for the connection, in order", async () => {
    const socket = new Fake();
    const wire = new Wire(socket);
    const hello = wire.ask("hello", {});
    expect(socket.sent).toEqual([]);
    socket.open();
    await Promise.resolve();
    expect(socket.sent).toMatchObject([{ id: 1, ask: "hello" }]);
    socket.answer(1, { example: "x" });
    expect((await hello).answer.example).toBe("x");
  });

  it("on one channel are replaced by newer ones, whose late answers find nobody", async () => {
    const { socket, wire } = await opened();
    const first = wire.ask("plan", { text: "a" }, { channel: "plan" });
    const second = wire.ask("plan", { text: "b" }, { channel: "plan" });
    await expect(first).rejects.toBeInstanceOf(Cancelled);
    socket.answer(1, { tokens: 1 });
    socket.say({ id: 1, cancelled: true });
    socket.answer(2, { tokens: 2 });
    expect((await second).answer.tokens).toBe(2);
  });

  it("are cancelled on the server too", async () => {
    const { socket, wire } = await opened();
    const run = wire.ask("run", { text: "a" }, { channel: "run" });
    wire.cancel("run");
    await expect(run).rejects.toBeInstanceOf(Cancelled);
    expect(socket.sent.at(-1)).toMatchObject({ ask: "cancel", which: 1 });
  });

  it("tell their progress, and what was refused", async () => {
    const { socket, wire } = await opened();
    const told: object[] = [];
    const run = wire.ask("run", { text: "" }, { onworking: (working) => told.push(working) });
    socket.say({ id: 1, queue: 2 });
    socket.say({ id: 1, progress: { done: 3, total: 30, what: "blocks" } });
    socket.say({ id: 1, error: { found: "an empty text", expected: "a word", do: "write one" } });
    await expect(run).rejects.toThrow(new Refused("an empty text", "a word", "write one").message);
    expect(told).toEqual([{ queue: 2 }, { done: 3, total: 30, what: "blocks" }]);
  });

  it("that stream end with the last frame", async () => {
    const { socket, wire } = await opened();
    const steps: unknown[] = [];
    const done = wire.stream("generate", { text: "a", settings: {}, seed: 0, max_new_tokens: 2 }, (frame) =>
      steps.push(frame.answer),
    );
    socket.answer(1, { generation: "g1" }, false);
    socket.answer(1, { text: "b" });
    await done;
    expect(steps).toEqual([{ generation: "g1" }, { text: "b" }]);
  });

  it("fail with a sentence when the connection is lost", async () => {
    const { socket, wire } = await opened();
    const run = wire.ask("run", { text: "a" });
    (socket.onclose as () => void)();
    await expect(run).rejects.toThrow("no connection");
  });

  it("say why the server closed it, where it told so", async () => {
    const { socket, wire } = await opened();
    const hello = wire.ask("hello", { token: "wrong" });
    socket.say({ id: null, error: { found: "a wrong token", expected: "the printed one", do: "open that address" } });
    (socket.onclose as () => void)();
    await expect(hello).rejects.toThrow("a wrong token");
  });
});
