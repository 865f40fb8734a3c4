// The parts of a logit: their words, which are drawn, and what they sum to. It draws nothing.

export interface Part {
  part: string;
  gives: number;
}
/** A part in words, and the place in the model that it names. */
export interface Named {
  words: string;
  layer?: number;
  head?: number;
  token?: number;
  neuron?: number;
}

/** "blocks.3.attn head 5" → block 3 head 5. word: a position's token. */
export function named(part: string, word: (position: number) => string): Named {
  const found = /^blocks\.(\d+)\.(attn_out|mlp_out|attn head (\d+)|attn from (\d+)|mlp\.post\[(\d+)\])(: bias)?$/.exec(part);
  if (!found) return { words: part.replace(/^embed\.(token|position)$/, "$1 embedding") };
  const [, block, what, head, token, neuron, bias] = found;
  const layer = Number(block);
  const start = `block ${layer}`;
  if (head !== undefined) return { words: `${start} head ${head}`, layer, head: Number(head) };
  if (token !== undefined) return { words: `${start} from ${word(Number(token))}`, layer, token: Number(token) };
  if (neuron !== undefined) return { words: `${start} neuron ${neuron}`, layer, neuron: Number(neuron) };
  const name = what === "attn_out" ? "attention" : "MLP";
  return { words: `${start} ${name}${bias ? ", bias and rounding" : ""}`, layer };
}

export interface Drawn {
  /** The largest by size, in that order. */
  parts: Part[];
  /** How many are not drawn, and what they sum to. */
  more: number;
  rest: number;
  /** What all of them sum to. */
  sum: number;
}

export function largest(parts: Part[], most: number): Drawn {
  const order = [...parts].sort((a, b) => Math.abs(b.gives) - Math.abs(a.gives));
  const rest = order.slice(most);
  const total = (some: Part[]) => some.reduce((sum, each) => sum + each.gives, 0);
  return { parts: order.slice(0, most), more: rest.length, rest: total(rest), sum: total(parts) };
}

/** A signed number with two decimals, as `cutaway attribute` heads its table: +13.69. */
export const signed = (value: number): string =>
  Number.isFinite(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}` : String(value);
