import { describe, expect, it } from "vitest";
import { divergence, logSoftmax } from "../src/lib/distribution";

describe("distributions", () => {
  it("sum to 1 however large the logits are, and a masked one has none", () => {
    const logs = logSoftmax([1000, 1001, -Infinity]);
    expect(logs.reduce((sum, log) => sum + Math.exp(log), 0)).toBeCloseTo(1, 12);
    expect([Math.exp(logs[2]!), Math.exp(logs[1]!)]).toEqual([0, expect.closeTo(Math.E / (1 + Math.E), 12)]);
  });

  it("are apart by their KL in nats", () => {
    const [p, q] = [logSoftmax([0, 0]), logSoftmax([Math.log(3), 0])];
    expect(divergence(p, q)).toBeCloseTo(0.5 * Math.log(0.5 / 0.75) + 0.5 * Math.log(0.5 / 0.25), 12);
    expect(divergence(p, p)).toBe(0);
    expect(divergence(logSoftmax([0, -Infinity]), p)).toBeCloseTo(Math.log(2), 12);
  });
});
