import { describe, expect, it } from "vitest";
import type { Candidate, Curve } from "../src/lib/answers";
import { complete, FILTERS, positionOf, published, sent } from "../src/lib/settings";
import { between, decades, effect, fallsAt, nearest, parts, powerOfTen, powers, sentence, stairs } from "../src/stages/logits/plot";

const filter = (name: string) => FILTERS.find((each) => each.name === name)!;
const curve: Curve = { rank: [1, 2, 10], logprob: [-0.7, -1.6, -4], cumulative: [0.5, 0.7, 1] };
const candidate = (id: number, final: number): Candidate =>
  ({ id, text: ` ${id}`, rank: id, logit: 1, model: final, scaled: final, final, removed_by: final ? null : "top_p" });

describe("settings", () => {
  it("of an address are checked, and the others are as the page begins", () => {
    const odd = { temperature: "hot", top_k: NaN, top_p: 0.5, do_sample: 1 } as never;
    expect(complete(odd)).toEqual({ repetition_penalty: 1, temperature: 1, top_k: 0, top_p: 0.5, min_p: 0, do_sample: true });
  });
  it("are sent without a min_p of 0", () => {
    expect("min_p" in sent({})).toBe(false);
    expect(sent({ min_p: 0.1 }).min_p).toBe(0.1);
  });
  it("of the model may be null", () => {
    expect(published({ top_k: 50, min_p: null, do_sample: false })).toMatchObject({ top_k: 50, top_p: 1, min_p: 0, do_sample: false });
  });
  it("have a stop on their slider for every value that changes nothing", () => {
    for (const each of FILTERS) {
      const stops = each.stops(49152);
      expect(stops[positionOf(each, each.off, 49152)]).toBe(each.off);
      expect(new Set(stops).size).toBe(stops.length);
    }
    expect(filter("top_k").stops(49152)[positionOf(filter("top_k"), 50, 49152)]).toBe(50);
    expect(filter("top_k").stops(11)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]);
  });
});

describe("the draw", () => {
  it("is said with digits enough to see where u falls", () => {
    const draw = { id: 1, text: " the", u: 0.41372, start: 0.39511, end: 0.48222 };
    expect(sentence(draw)).toBe("u = 0.414 falls in [0.395, 0.482): ␣the");
    expect(sentence({ ...draw, u: 0.93854, start: 0.93351, end: 0.93871 })).toBe("u = 0.9385 falls in [0.9335, 0.9387): ␣the");
    expect(sentence({ ...draw, u: 0, start: 0, end: 0.25 })).toContain("u = 0.000 falls in [0.000, 0.250)");
    expect(sentence({ id: 1, text: " the" })).toMatch(/nothing is drawn: ␣the$/);
  });
  it("falls on the first token whose cumulative probability is above u", () => {
    expect([0, 0.49, 0.5, 0.7, 0.9999999].map((u) => fallsAt(curve, u))).toEqual([0, 0, 1, 2, 2]);
    expect(fallsAt({ ...curve, cumulative: [0.5, 0.7, 0.999] }, 0.9999)).toBe(2);
  });
  it("is found between two ranks that the curve has", () => {
    const at = (u?: number) => between({ draw: { id: 1, text: "", u }, final_curve: curve } as never);
    expect([at(0.1), at(0.6), at(0.8), at()]).toEqual([[0, 0], [1, 1], [2, 9], [0, 0]]);
  });
  it("divides [0, 1) among the candidates, and the others share the rest", () => {
    expect(parts([candidate(0, 0.5), candidate(1, 0.25), candidate(2, 0)]).map((p) => [p.id, p.start, p.end]))
      .toEqual([[0, 0, 0.5], [1, 0.5, 0.75], [null, 0.75, 1]]);
    expect(parts([candidate(0, 1), candidate(1, 0)])).toHaveLength(1);
  });
});

describe("the curves", () => {
  it("have ticks from the first token to the last", () => {
    expect(decades(49152)).toEqual([1, 10, 100, 1000, 10000]);
    expect(decades(1)).toEqual([1]);
    expect(powers(-14.9, 8)).toEqual([0, -2, -4, -6, -8, -10, -12, -14]);
    expect([0, -2, -14].map(powerOfTen)).toEqual(["1", "10⁻²", "10⁻¹⁴"]);
  });
  it("rise by stairs", () => {
    expect(stairs(curve, (rank) => rank, (share) => 100 - 100 * share)).toBe("M1.0 100.0H1.0V50.0H2.0V30.0H10.0V0.0");
  });
  it("are read at the nearest rank, as the axis shows nearness", () => {
    expect([1, 1.3, 1.6, 4, 5, 9e9].map((rank) => nearest(curve, rank))).toEqual([0, 0, 1, 1, 2, 2]);
  });
  it("say what a filter removed", () => {
    const stage = { name: "top_p", setting: 0.9, removed: 1, removed_prob: 0.0995, left: 45, kept_prob: 0.9 };
    expect(effect(stage)).toBe("removes 1 token with 9.95\u00a0%");
    expect(effect({ ...stage, removed: 0 })).toBe("removes none");
  });
});
