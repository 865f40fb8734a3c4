import { expect, it } from "vitest";
import { byBlock } from "../src/lib/blocks";

it("lays names out by kind and block, and keeps what is of no block", () => {
  const names = ["embed.token", "blocks.0.attn.q", "blocks.0.mlp_out", "blocks.10.mlp_out", "blocks.2.attn.q", "logits"];
  const grid = byBlock(names, (name) => name);
  expect([grid.kinds, grid.blocks]).toEqual([["attn.q", "mlp_out"], 11]);
  expect([grid.at(1, 10), grid.at(0, 2), grid.at(0, 10)]).toEqual(["blocks.10.mlp_out", "blocks.2.attn.q", undefined]);
  expect(grid.others.map(([name]) => name)).toEqual(["embed.token", "logits"]);
});
