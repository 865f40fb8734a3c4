import { describe, expect, it } from "vitest";
import { read, write } from "../src/lib/address";

describe("the address", () => {
  it("gives back what was written into it", () => {
    const state = { prompt: "a & b=#c ␣", open: [1, 4], focus: "t3.l2.h5", views: { heads: "induction", first: "grey" }, seed: 7 };
    expect(read(`#${write(state)}`)).toEqual(state);
  });

  it("leaves out what is empty, and what is no setting", () => {
    expect(write({ prompt: "a", views: { first: "" }, open: [] })).toBe("prompt=a");
    expect(read("#views=heads.%3Cscript%3E&prompt=a")).toEqual({ prompt: "a" });
  });
});
