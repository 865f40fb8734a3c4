// Logits to probabilities and how far two distributions are apart, in float64. It does not know tokens.

/** Log-probabilities of the whole vocabulary. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  let most = -Infinity;
  for (let i = 0; i < logits.length; i++) most = Math.max(most, logits[i]!);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - most);
  const log = most + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - log);
}

/** KL(p ‖ q) in nats, of log-probabilities. What p gives nothing to adds nothing. */
export function divergence(p: Float64Array, q: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < p.length; i++) if (p[i]! > -Infinity) sum += Math.exp(p[i]!) * (p[i]! - q[i]!);
  return Math.max(0, sum);
}
