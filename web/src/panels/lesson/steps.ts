// The lesson: eight steps on the reader's own sentence, each with its numbers and a question. It draws nothing.
import { num } from "../../lib/answers";
import { at, slice } from "../../lib/frames";
import type { Page } from "../../lib/page.svelte";
import { NEUTRAL, sent } from "../../lib/settings";
import { count, number, percent, shown, visible, whole } from "../../lib/text";
import { rotatedFrom } from "../../stages/embedding/rotated";
import { cosines, largest, length, respelled, standing } from "./measures";

export interface Question {
  ask: string;
  kind: "number" | "word" | "choice";
  options?: string[];
}
/** The true answer, and what follows from it. */
export interface Truth {
  said: string;
  right: boolean;
  then: string[];
}
export interface Step {
  name: string;
  /** The stage that it is about. */
  stage: number;
  says: (page: Page) => string[];
  question: (page: Page) => Question;
  truth: (page: Page, guess: string) => Promise<Truth>;
  /** What views show with the answer. */
  show?: (page: Page) => void;
  /** How the heading in the stage begins that is brought into view; else the stage's own. */
  heading?: string;
}

export const OTHER = "The sun rises in the east";
const ORDER =
  "The rows of the table do not know where in the text their token stands. " +
  "Yet “dog bites man” is not “man bites dog”.";
const last = (page: Page) => page.tokens.length - 1;
const word = (page: Page, i = last(page)) => `“${page.tokens[i] ? shown(page.tokens[i]) : ""}”`;
const same = (guess: string, truth: number) => guess.trim() !== "" && Number(guess) === truth;
/** The tokens to choose from: with their positions where one stands in the text twice. */
function texts(page: Page): string[] {
  const ids = page.tokens.map((token) => token.id);
  const twice = (id: number) => ids.indexOf(id) !== ids.lastIndexOf(id);
  return ids.map((id, i) => word(page, i) + (twice(id) ? `, position ${i}` : ""));
}

const tokens: Step = {
  name: "Tokens", stage: 1,
  says: (page) => [
    "A language model reads no letters and no words, but tokens: pieces of text from a fixed list, its vocabulary. " +
      `This one has ${whole(page.hello!.model.vocab_size)}.`,
    `Your sentence becomes ${count(page.tokens.length, "token")}: the row of boxes under the text field. ␣ is a ` +
      "space: it belongs to the token that follows it.",
    "Another sentence can be typed there at any time, with Enter: the lesson then asks about that one.",
  ],
  question: (page) => ({
    kind: "number", ask: `Written ${respelled(page.ran).how}, how many tokens does the same sentence become?`,
  }),
  truth: async (page, guess) => {
    const { text } = respelled(page.ran);
    const pieces = (await page.wire.ask("tokens", { texts: [text] })).answer.texts[0]!.pieces;
    const more = pieces.length > page.tokens.length;
    return {
      said: String(pieces.length), right: same(guess, pieces.length),
      then: [
        `${pieces.map(shown).join(" · ")}.`,
        more
          ? `${pieces.length - page.tokens.length} more: ` +
            "a spelling that was rare in the training text is in the list only in pieces."
          : "No more than before: what was common in the training text, in this spelling too, is in the list as a whole.",
      ],
    };
  },
};

const padding: Step = {
  name: "Padding", stage: 1,
  says: (page) => [
    "A model can read several texts at once, as the rows of one table, and all rows of a table have one length. A " +
      "shorter text is filled up with padding; a mask of ones and zeros says which tokens are real.",
    `Suppose your sentence, ${count(page.tokens.length, "token")}, is read together with “${page.second || OTHER}”.`,
  ],
  question: () => ({ kind: "number", ask: "How many padding tokens does the shorter text get?" }),
  truth: async (page, guess) => {
    const { tensors } = await page.wire.ask("tokens", { texts: [page.ran, page.second || OTHER] });
    const [, wide = 0] = tensors.mask.shape;
    const real = [0, 1].map((row) => slice(tensors.mask, row).data.reduce((sum, one) => sum + one, 0));
    const pads = 2 * wide - real[0]! - real[1]!;
    return {
      said: String(pads), right: same(guess, pads),
      then: [
        `The two texts have ${real[0]} and ${real[1]} tokens, so the table has ${count(wide, "column")}.`,
        "Where the mask is 0, nothing is read: attention gives that token the weight 0, and positions count the " +
          "real tokens only.",
      ],
    };
  },
  show: (page) => (page.second ||= OTHER), heading: "Two texts",
};

const architecture: Step = {
  name: "Architecture", stage: 3,
  says: (page) => {
    const { n_layers, d_model } = page.hello!.model;
    return [
      `From here on, each token is a vector of ${whole(d_model)} numbers. It passes ${n_layers} blocks. In each, ` +
        "attention lets a token read from those before it; then an MLP, a small network, works on each token by itself.",
      "Attention and MLP each add their result, a vector too, to the token’s vector. The vector that runs through all " +
        "blocks and is only ever added to is called the residual stream.",
    ];
  },
  question: (page) => ({
    kind: "choice", options: ["Attention", "The MLPs"],
    ask: "The longer a vector that is added, the more it can change. Over all " +
      `${page.hello!.model.n_layers} blocks, which adds more length to the last token, ${word(page)}?`,
  }),
  truth: async (page, guess) => {
    const { attn_size, mlp_size } = page.run!.tensors;
    const sizes = [attn_size, mlp_size].map((each) =>
      Array.from({ length: each.shape[0] ?? 0 }, (_, layer) => at(each, layer, last(page))),
    );
    const [attention, mlps] = sizes.map((each) => each.reduce((sum, size) => sum + size, 0)) as [number, number];
    const [name, own] = attention > mlps ? ["Attention", sizes[0]!] : ["The MLPs", sizes[1]!];
    return {
      said: name, right: guess === name,
      then: [
        `The lengths of what attention adds sum to ${number(attention)}, those of the MLPs to ${number(mlps)}. The ` +
          `longest of these ${name === "Attention" ? "attention" : "MLP"} vectors is block ${largest(own)}’s: ` +
          `${number(own[largest(own)] ?? NaN)}.`,
        "In the picture each point is one such length. Click a block to look into it.",
      ],
    };
  },
};

const embedding: Step = {
  name: "Embedding", stage: 2,
  says: (page) => [
    "How does a token become a vector? By looking it up: the model has a table with one row of " +
      `${whole(page.hello!.model.d_model)} numbers for each token. They were learned in training.`,
    "Tokens that are used alike often have rows that point in similar directions. The cosine says how similar: 1 is " +
      "the same direction, 0 a right angle, -1 the opposite direction.",
  ],
  question: (page) =>
    page.tokens.length > 1
      ? { kind: "choice", options: texts(page).slice(0, -1),
          ask: `Which of the other tokens has the row most similar to ${word(page)}?` }
      : { kind: "number", ask: "How many numbers does the whole table hold?" },
  truth: async (page, guess) => {
    if (page.tokens.length < 2) {
      const { vocab_size, d_model } = page.hello!.model;
      const all = vocab_size * d_model;
      const then = [`${whole(vocab_size)} rows of ${whole(d_model)} numbers.`];
      return { said: whole(all), right: same(guess, all), then };
    }
    const found = cosines(page.run!.tensors["embed.token"], last(page)).slice(0, -1);
    const order = found.map((_, i) => i).sort((a, b) => found[b]! - found[a]!);
    const best = order[0]!;
    const least = order.at(-1)!;
    return {
      said: texts(page)[best]!, right: guess === texts(page)[best],
      then: [
        `Its cosine with ${word(page)} is ${number(found[best]!)}; the least similar is ${word(page, least)} with ` +
          `${number(found[least]!)}.`,
        "No position enters here: the same token has the same row wherever it stands.",
      ],
    };
  },
};

/** The first block that rotates, and the site of the query that it rotates. */
function rotating(page: Page): { layer: number; read: string } {
  const { sites, model } = page.hello!;
  for (let layer = 0; layer < model.n_layers; layer++) {
    const read = rotatedFrom(sites, layer);
    if (read) return { layer, read };
  }
  throw new Error("no block rotates its queries");
}

const rotation: Step = {
  name: "Positions", stage: 2,
  says: () => [
    ORDER,
    "To compare tokens, attention makes two vectors of each: a query to look with, and a key to be found by.",
    "This model tells positions by rotation: it takes the numbers of each query and key in pairs, and rotates every " +
      "pair by an angle that grows with the token’s position. Positions count from 0.",
  ],
  question: (page) => ({
    kind: "choice", options: ["It grows", "It shrinks", "It stays the same"],
    ask: `The query of ${word(page)} in block ${rotating(page).layer}, head 0 is rotated for position ${last(page)}. ` +
      "What happens to its length?",
  }),
  heading: "Positions",
  truth: async (page, guess) => {
    const of = async (site: string) => length(slice((await page.values(site)).tensor, last(page), 0).data);
    const { layer, read } = rotating(page);
    const [before, after] = [await of(read), await of(`blocks.${layer}.attn.rot_q`)];
    const change = after / before - 1;
    const said = Math.abs(change) < 1e-4 ? "It stays the same" : change > 0 ? "It grows" : "It shrinks";
    return {
      said, right: guess === said,
      then: [
        `${number(before)} before, ${number(after)} after: a rotation changes only the direction.`,
        "When a rotated query is compared with a rotated key, only the difference of their angles counts. So " +
          "attention sees how far apart two tokens stand.",
      ],
    };
  },
};

const alibi: Step = {
  ...rotation,
  says: () => [
    ORDER,
    "To compare tokens, attention makes two vectors of each: a query to look with, and a key to be found by. The dot " +
      "product of a query and a key is the key’s score.",
    "This model tells positions in these scores (ALiBi): to each one, a head adds a slope of its own times the key’s " +
      "position. Positions count from 0.",
  ],
  question: (page) => ({
    kind: "choice", options: ["Its own", "That of the first token", "Neither: the same"],
    ask: `${word(page)}, at position ${last(page)}, looks at its own key and at that of the first token. To which score is ` +
      "more added in block 0, head 0?",
  }),
  truth: async (page, guess) => {
    const where = { run: page.run!.answer.run, layer: 0, head: 0, position: last(page) };
    const slope = (await page.wire.ask("row", where)).answer.slope ?? 0;
    const added = slope * last(page);
    const said = added > 0 ? "Its own" : added < 0 ? "That of the first token" : "Neither: the same";
    return {
      said, right: guess === said,
      then: [
        `The head’s slope is ${number(slope)}: ${number(added)} is added to the one, 0 to the other.`,
        "Only differences of scores count in softmax. So a key counts for less the further back it stands, in some heads " +
          "by much and in others by little.",
      ],
    };
  },
};

const learned: Step = {
  ...rotation, heading: "Position vectors",
  says: () => [
    ORDER,
    "This model has a second table, with a learned vector for each position. It is added to the token’s.",
  ],
  question: (page) => ({
    kind: "choice", options: ["The token’s", "The position’s"], ask: `At ${word(page)}, which of the two vectors is longer?`,
  }),
  truth: async (page, guess) => {
    const of = (name: "embed.token" | "embed.position") => length(slice(page.run!.tensors[name]!, last(page)).data);
    const [token, place] = [of("embed.token"), of("embed.position")];
    const said = token > place ? "The token’s" : "The position’s";
    const then = [`The token’s is ${number(token)} long, the position’s ${number(place)}.`];
    return { said, right: guess === said, then };
  },
};

/** The head that gives most weight to the previous token. */
function previous(page: Page): { layer: number; head: number; share: number } {
  const { data, shape } = page.run!.tensors["role.previous"];
  const best = largest(data);
  return { layer: Math.floor(best / (shape[1] ?? 1)), head: best % (shape[1] ?? 1), share: data[best] ?? NaN };
}

const attention: Step = {
  name: "Self-attention", stage: 4,
  says: (page) => {
    const { n_layers, n_heads, sinks } = page.hello!.model;
    return [
      "In attention a token looks back at those before it, and at itself. Its query, the vector to look with, is " +
        "compared with the key of each, which gives a score each; softmax turns the scores into weights that sum to 1" +
        (sinks ? ", together with the share of the head’s sink: a learned score that stands for no token." : "."),
      "Each token has a third vector, its value: what it hands on. The token reads the sum of all values, each times " +
        "its weight.",
      `${n_heads} heads in each of ${n_layers} blocks do so, each in its own way: ${n_layers * n_heads} in all. ` +
        `Take head ${previous(page).head} of block ${previous(page).layer}.`,
    ];
  },
  question: (page) => ({
    kind: "choice", options: texts(page), ask: `To which token does the last one, ${word(page)}, give most weight there?`,
  }),
  truth: async (page, guess) => {
    const { layer, head, share } = previous(page);
    const { tensors } = await page.wire.ask("head", { run: page.run!.answer.run, layer, head });
    const weights = slice(tensors.pattern, last(page)).data;
    const best = largest(weights);
    const first = page.run!.tensors["role.first"].data;
    const resting = first.reduce((sum, value) => sum + (value > 0.5 ? 1 : 0), 0);
    const then = [`It gets ${percent(weights[best] ?? NaN)} of the weight.`];
    if (!Number.isNaN(share))
      then[0] +=
        ` On average over your sentence, this head gives ${percent(share)} to the token just before: more than any other head.`;
    if (resting)
      then.push(
        `Another habit: ${resting} of the ${first.length} heads give more than half of their weight to the first token. ` +
          "It is called an attention sink: heads seem to put there the weight that they have no other use for.",
      );
    return { said: texts(page)[best]!, right: guess === texts(page)[best], then };
  },
  show: (page) => ([page.focus.layer, page.focus.head] = [previous(page).layer, previous(page).head]),
  heading: "Block ",
};

const logits: Step = {
  name: "Logits", stage: 7,
  says: (page) => [
    "After the last block, the vector of the last token is compared with a vector for each of the " +
      `${whole(page.hello!.model.vocab_size)} tokens. Each comparison gives a number, its logit.`,
    "Softmax turns the logits into probabilities: all above 0, and together 1.",
  ],
  question: (page) => ({
    kind: "word", ask: `What does the model find most probable after ${word(page)}? Write one word.`,
  }),
  truth: async (page, guess) => {
    const where = { run: page.run!.answer.run, position: last(page) };
    const all = (await page.wire.ask("logits", where)).tensors.logits.data;
    const id = largest(all);
    const asked = { ...where, settings: sent(NEUTRAL), seed: 0, count: 3 };
    const { candidates } = (await page.wire.ask("sampling", asked)).answer;
    const [best, ...next] = candidates.map((each) => `“${visible(each.text)}” ${percent(num(each.model))}`);
    const then = [`${best}, then ${next.join(" and ")}.`];
    let right = false;
    if (guess.trim()) {
      const spelled = ` ${guess.trim()}`;
      const { pieces } = (await page.wire.ask("tokens", { texts: [spelled], special: false })).answer.texts[0]!;
      const own = pieces[0]!;
      const { prob, rank } = standing(all, own.id);
      right = own.id === id;
      const part = pieces.length > 1 ? ` begins with the token “${shown(own)}”, which` : "";
      then.push(`Your “${visible(spelled)}”${part} has rank ${whole(rank)} of ${whole(all.length)}, with ${percent(prob)}.`);
    }
    return { said: `“${visible(candidates[0]!.text)}”`, right, then };
  },
  show: (page) => (page.settings = { ...NEUTRAL }),
};

const sampling: Step = {
  name: "Sampling", stage: 7,
  says: () => [
    "Now one token is drawn. Think of all tokens side by side on a line from 0 to 1, each as wide as its " +
      "probability: a random number u falls on one of them, and that is the next token.",
    "Before that, filters act. All logits are divided by the temperature: below 1 the probable tokens gain, above 1 " +
      "the others do. Then top‑p 0.9 keeps only the most probable tokens that together reach 90 %.",
  ],
  question: () => ({
    kind: "choice", options: ["Fewer", "As many", "More"],
    ask: "With top‑p 0.9, are fewer tokens left to draw from at temperature 0.5 than at 1, as many, or more?",
  }),
  truth: async (page, guess) => {
    const left = async (temperature: number) => {
      const settings = sent({ ...NEUTRAL, temperature, top_p: 0.9 });
      const where = { run: page.run!.answer.run, position: last(page) };
      const { answer } = await page.wire.ask("sampling", { ...where, settings, seed: 0, count: 1 });
      return answer.stages.at(-1)!.left;
    };
    const [one, half, hot] = [await left(1), await left(0.5), await left(1.5)];
    const said = half < one ? "Fewer" : half === one ? "As many" : "More";
    return {
      said, right: guess === said,
      then: [
        `Of ${whole(page.hello!.model.vocab_size)} tokens, top‑p keeps ${whole(one)} at temperature 1, ${whole(half)} ` +
          `at 0.5, and ${whole(hot)} at 1.5.`,
        "Move the sliders and draw again. Then let it write: each drawn token is appended to your sentence, and the " +
          "model runs again for the next one.",
      ],
    };
  },
  show: (page) => (page.settings = { ...NEUTRAL, temperature: 0.5, top_p: 0.9 }),
};

/** The steps for this model: the one about positions is that of how it tells them. */
export function steps(page: Page): Step[] {
  const positions = { learned, alibi, rope: rotation }[page.hello?.model.positions ?? "rope"];
  return [tokens, padding, architecture, embedding, positions, attention, logits, sampling];
}
