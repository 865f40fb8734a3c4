// What each request takes and what its answer holds: the page's half of the protocol, as types. No code runs here.
import type { Tensor } from "./frames";

/** A number in JSON, which has no NaN and no infinities: these are the words. */
export type Num = number | "NaN" | "Infinity" | "-Infinity";
type F32 = Tensor<Float32Array>;
type I32 = Tensor<Int32Array>;
type U8 = Tensor<Uint8Array>;

/** One token. start, end: characters of the text, [start, end); null where it is not in the text. */
export interface Token {
  id: number;
  text: string;
  bytes: number[];
  start: number | null;
  end: number | null;
  special: boolean;
}
export interface Word { id: number; text: string }
export interface Scored extends Word { value: Num }
export interface Python { python?: string }

export interface Model {
  name: string;
  summary: string;
  type: string;
  n_layers: number;
  n_heads: number;
  n_kv_heads: number;
  d_model: number;
  d_mlp: number;
  d_head: number;
  vocab_size: number;
  n_positions: number;
  precision: string;
  positions: "rope" | "learned" | "alibi";
  gated: boolean;
  parallel: boolean;
  /** Each head has a sink: a learned score, whose share of the softmax is given to no position. */
  sinks: boolean;
}
export interface Site { name: string; shape: string; formula: string; parents: string[]; meaning: string }
export interface Settings {
  repetition_penalty?: number;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  do_sample?: boolean;
}
export interface Hello {
  version: string;
  model: Model;
  sites: Site[];
  sampling: Settings & Record<string, unknown>;
  chat: boolean;
  example: string;
  limits: Record<string, number>;
}

/** left, right, result: as `shown`. piece: the number of the piece that it made a part of. */
export interface Merge { left: string; right: string; result: string; rank: number; piece: number }
export interface TokenizedText {
  bytes: number[];
  pieces: (Token & { padding?: boolean; shown?: string })[];
  merges: Merge[] | null;
  note: string | null;
}
export interface Plan { tokens: number; bytes: number; seconds: Num; rows: { what: string; bytes: number }[] }

/** An edit in the recipe's format (edit/edit.py); "patch" takes its value from another run. */
export interface Edit { site: string; op: string; [argument: string]: unknown }

export interface Run extends Python {
  run: string;
  tokens: Token[];
  seconds: number;
  bytes: number;
  /** Names of the tensors of roles. */
  roles: string[];
  lens_texts: Record<string, string>;
  /** The positions that lens_* and top_* hold, [start, end). */
  window: [number, number];
  notes: string[];
}
export interface RunTensors {
  "embed.token": F32;
  "embed.position"?: F32;
  attn_size: F32;
  mlp_size: F32;
  resid_size: F32;
  thumbnails: U8;
  "role.previous": F32;
  "role.duplicate": F32;
  "role.induction": F32;
  "role.first": F32;
  "role.self": F32;
  "role.entropy": F32;
  /** Row 0 is what enters block 0, row i + 1 what leaves block i; columns are the window's positions. */
  lens_ids: I32;
  lens_probs: F32;
  top_ids: I32;
  top_probs: F32;
  cone?: F32;
}
export interface Neuron {
  neuron: number;
  pre: Num;
  pre_linear?: Num;
  post: Num;
  size: Num;
  reads: Scored[];
  promotes: Scored[];
  suppresses: Scored[];
}
export interface Term { what: string; value: Num; factor: Num; by: string; contribution: Num; codes?: [number, number] | null }
export interface Why extends Python {
  site: string;
  index: number[];
  shape: number[];
  formula: string;
  value: Num;
  recomputed: Num;
  difference: Num;
  terms: Term[];
  count: number;
  notes: string[];
  /** null: all of that axis. */
  parents: { site: string; index: (number | null)[] }[];
}
export interface FilterStage { name: string; setting: Num; removed: number; removed_prob: Num; left: number; kept_prob: Num }
export interface Curve { rank: number[]; logprob: Num[]; cumulative: Num[] }
export interface Candidate extends Word {
  rank: number;
  logit: Num;
  model: Num;
  scaled: Num;
  final: Num;
  removed_by: string | null;
}
export interface Sampling extends Python {
  stages: FilterStage[];
  curve: Curve;
  final_curve: Curve;
  candidates: Candidate[];
  draw: Word & { u?: number; start?: number; end?: number; seed?: number };
  vocab: number;
}
export interface WrittenStep extends Word {
  index: number;
  /** The token's own text; `text` is what the written text gained: no half a character. */
  piece?: string;
  forced?: boolean;
  prob: Num;
  entropy: Num;
  rank: number;
  cache_bytes: number;
  cache_tokens: number;
  u?: Num;
  /** Why the text ended with this token: length, eos, …; null where it goes on. */
  ended: string | null;
}
/** A frame of a generation: the first has `generation` and `prompt`, the following `step`, the last `text`. */
export interface Written extends Python {
  generation?: string;
  prompt?: Token[];
  /** With the first step of a fork: the tokens that the cache held, and how many of them were kept. */
  held?: number;
  kept?: number;
  step?: WrittenStep;
  text?: string;
  seconds?: number;
  ended?: string | null;
}
type WithProb = Word & { prob: Num };
/** The model in the other precision: what it takes, before it is loaded. */
export interface Full extends Python {
  /** Of the model in the other precision; own: of the one that is served. */
  bytes: number;
  own: number;
  loaded: boolean;
  seconds: { load: number | null; compare: number | null; damage: number | null };
  layers: string[];
}
export interface SiteError { site: string; cosine: Num; relative: Num; max: Num }
export interface Compared extends Python {
  sites: SiteError[];
  flips: { position: number; full: WithProb; eight: WithProb }[];
  kl: Num[];
}
export interface Layer extends Python {
  name: string;
  site: string;
  shape: [rows: number, columns: number];
  scheme: string;
  window: [row: number, column: number];
  row: number;
  weight: { scales: Num[] };
  activation: { scales: Num[] };
  products: Num[];
  outlier_columns: number[];
  inlier: Num;
  outlier: Num;
  bias: Num;
  value: Num;
  input: { largest: { index: number; value: Num; code: number }[] };
  error: { relative: Num; shares: { index: number; share: Num }[] } | null;
}
export interface LayerDamage { name: string; alone: Num; share: Num; agreement: Num; bytes: number; full_bytes: number }
export interface Damage extends Python {
  mode: string;
  dtype: string;
  positions: number;
  total: Num;
  agreement: Num;
  layers: LayerDamage[];
  /** What to keep in full precision: the KL of all without these layers' rounding, and what they take in each. */
  keep: { layers: string[]; predicted: Num; measured: Num; bytes: number; full_bytes: number };
}
/** Contributions to one logit, or to the difference of two, that sum to it. */
export interface Attribution extends Python {
  token: number;
  text: string;
  versus: number | string | null;
  logit: Num;
  by: string;
  parts: { part: string; gives: Num }[];
}
type None = Record<string, never>;
interface Sampled { settings: Settings; seed: number; max_new_tokens: number }
type Where = { run: string; position: number } | { generation: string; step: number };

/** ask → its arguments, the JSON of its answer, its tensors. */
export interface Asks {
  hello: { takes: { token?: string }; gives: Hello; tensors: None };
  tokens: {
    takes: { texts: string[]; padding_side?: "left" | "right"; special?: boolean };
    gives: { texts: TokenizedText[] } & Python;
    tensors: { ids: I32; mask: I32; positions: I32 };
  };
  plan: { takes: { text: string; edits?: Edit[] }; gives: Plan & Python; tensors: None };
  run: { takes: { text: string; chat?: boolean; edits?: Edit[]; base?: string }; gives: Run; tensors: RunTensors };
  values: {
    takes: { run: string; site: string; head?: number; start?: number; end?: number };
    gives: { shape: number[]; min: Num; max: Num; nan: number; inf: number; axes: string[] } & Python;
    tensors: { values: F32 };
  };
  lens_grid: {
    takes: { run: string; start: number; end: number };
    gives: { start: number; end: number; texts: Record<string, string> } & Python;
    tensors: { lens_ids: I32; lens_probs: F32; top_ids: I32; top_probs: F32 };
  };
  head: {
    takes: { run: string; layer: number; head: number };
    gives: Python;
    tensors: { pattern: F32; scores: F32 };
  };
  row: {
    takes: { run: string; layer: number; head: number; position: number };
    /** slope: ALiBi's of the head. sink: the score of its sink. edited: which of the row's sites are changed. */
    gives: { kv_head: number; factor: number; softcap: number | null; slope: number | null; sink: number | null; edited: string[] } & Python;
    tensors: { q: F32; dots: F32; scaled: F32; scores: F32; pattern: F32; v: F32; z: F32 };
  };
  neurons: {
    takes: { run: string; layer: number; position: number; top?: number };
    gives: { neurons: Neuron[] } & Python;
    tensors: None;
  };
  lens: {
    takes: { run: string; layer: number; position: number; top?: number };
    gives: { tokens: (Word & { logit: Num; prob: Num })[] } & Python;
    tensors: None;
  };
  attribute: {
    takes: { run: string; position: number; answer?: number | null; against?: number | null;
             by: "block" | "head" | "neuron" | "token" };
    gives: Attribution;
    tensors: None;
  };
  why: { takes: { run: string; site: string; index: number[] }; gives: Why; tensors: None };
  logits: { takes: Where; gives: Python; tensors: { logits: F32 } };
  sampling: {
    takes: Where & { settings: Settings; seed: number; draw?: number; from?: number; count?: number };
    gives: Sampling;
    tensors: None;
  };
  generate: { takes: Sampled & { text?: string; run?: string; chat?: boolean; edits?: Edit[] }; gives: Written; tensors: None };
  fork: { takes: Sampled & { generation: string; step: number; token: number }; gives: Written; tensors: None };
  full: { takes: { run?: string }; gives: Full; tensors: None };
  compare: { takes: { run: string }; gives: Compared; tensors: None };
  compare_values: {
    takes: { run: string; site: string; head?: number };
    gives: Python & { axes: string[]; shape: number[] };
    tensors: { eight: F32; full: F32 };
  };
  layer: {
    takes: { run: string; layer: string; position: number; row?: number; column?: number; error?: boolean };
    gives: Layer;
    tensors: { codes: I32; scales: F32; input: F32; activation_codes: I32; activation_scales: F32 };
  };
  damage: { takes: { text?: string; run?: string }; gives: Damage; tensors: None };
  recipe: { takes: { edits: Edit[] }; gives: { recipe: string }; tensors: None };
  check: { takes: { recipe: string }; gives: { edits: Edit[] }; tensors: None };
}

export type Ask = keyof Asks;

/** A number of an answer's JSON as a number. */
export const num = (value: Num | undefined | null): number => (value == null ? Number.NaN : Number(value));
