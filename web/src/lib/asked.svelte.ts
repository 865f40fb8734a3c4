// The answer to a request that follows what it depends on: asked again when its arguments change. It draws nothing.
import type { Ask, Asks } from "./answers";
import type { Page } from "./page.svelte";
import { type Answer, Cancelled, type Working } from "./wire";

/** An answer and the arguments it answers, which the page may have left behind: labels come from `takes`. */
export type Taken<A extends Ask> = Answer<A> & { takes: Asks[A]["takes"] };

export interface Asked<A extends Ask> {
  /** The last answer; null before the first, and where there is nothing to ask. */
  readonly given: Taken<A> | null;
  readonly error: Error | null;
  /** How far the request is; null where none runs. */
  readonly working: Working | null;
  stop(): void;
}

/** Call it while a component is set up. args: null asks nothing. channel: where two views ask the same thing. */
export function asked<A extends Ask>(
  page: Page, ask: A, args: () => Asks[A]["takes"] | null, channel: string = ask,
): Asked<A> {
  let given = $state.raw<Taken<A> | null>(null);
  let error = $state.raw<Error | null>(null);
  let working = $state.raw<Working | null>(null);
  const key = $derived(JSON.stringify(args()));
  let run = "";
  $effect(() => {
    const takes = JSON.parse(key) as (Asks[A]["takes"] & { run?: string }) | null;
    error = null;
    if (takes === null || takes.run !== run) given = null; // another prompt's numbers never stand under this one's words
    run = takes?.run ?? "";
    working = null;
    if (takes === null) return undefined;
    let current = true;
    working = {};
    page.wire
      .ask(ask, takes, { channel, onworking: (far) => current && (working = far) })
      .then((answer) => current && (given = { ...answer, takes }))
      .catch((failed: Error) => {
        if (!current || failed instanceof Cancelled) return;
        [given, error] = [null, failed];
      })
      .finally(() => current && (working = null));
    return () => {
      current = false;
      page.wire.cancel(channel); // a view that is gone leaves no work behind
    };
  });
  return {
    get given() { return given; },
    get error() { return error; },
    get working() { return working; },
    stop: () => page.wire.cancel(channel),
  };
}
