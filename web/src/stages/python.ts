// The Python of what a run itself brought: the run's lines, and the one that reads it. It draws nothing.
import type { Page } from "../lib/page.svelte";

export const ofRun = (page: Page, ...lines: string[]) => [page.run!.answer.python, ...lines].join("\n");
