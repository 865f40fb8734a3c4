// The tokens of a text as words of a sentence: told apart where the same one stands twice. It draws nothing.
import { shown } from "./text";

/** Each token as it is shown; with its position, ␣John (9), where there is another like it. */
export function words(tokens: readonly Parameters<typeof shown>[0][]): string[] {
  const texts = tokens.map(shown);
  const times = new Map<string, number>();
  for (const text of texts) times.set(text, (times.get(text) ?? 0) + 1);
  return texts.map((text, i) => (times.get(text)! > 1 ? `${text} (${i})` : text));
}
