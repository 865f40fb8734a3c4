// Names of the model's parts by block and kind: "blocks.3.mlp.up" is mlp.up of block 3. It does not know values.

export interface Grid<T> {
  /** Kinds, in the order in which they first come; the rows. */
  kinds: string[];
  blocks: number;
  /** The entry of a kind in a block; undefined where there is none. */
  at: (kind: number, block: number) => T | undefined;
  /** What belongs to no block, by its name. */
  others: [string, T][];
}

/** Entries with a name each, laid out as kinds × blocks. */
export function byBlock<T>(entries: readonly T[], name: (entry: T) => string): Grid<T> {
  const kinds: string[] = [];
  const cells = new Map<string, T>();
  const others: [string, T][] = [];
  let blocks = 0;
  for (const entry of entries) {
    const found = /^blocks\.(\d+)\.(.+)$/.exec(name(entry));
    if (!found) {
      others.push([name(entry), entry]);
      continue;
    }
    const [, block = "", kind = ""] = found;
    if (!kinds.includes(kind)) kinds.push(kind);
    blocks = Math.max(blocks, Number(block) + 1);
    cells.set(`${block} ${kind}`, entry);
  }
  return { kinds, blocks, others, at: (kind, block) => cells.get(`${block} ${kinds[kind]}`) };
}
