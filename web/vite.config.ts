// How the page is built: one folder of static files with relative addresses, which `cutaway serve` serves as they are.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// Svelte's run-time errors name a page on the web. The page names no host, so the text keeps the error's name only.
const noHosts: Plugin = {
  name: "no-hosts",
  renderChunk: (code) => code.replaceAll("https://svelte.dev/e/", "svelte: "),
};

export default defineConfig({
  base: "./",
  plugins: [svelte(), noHosts],
  build: {
    outDir: "../src/cutaway/apps/server/page",
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // `npm run dev` shows changes at once and talks to a `cutaway serve ` beside it.
  server: { proxy: { "/ws": { target: "ws://127.0.0.1:8377", ws: true, changeOrigin: true } } },
  test: { include: ["tests/**/*.test.ts"], environment: "node" },
});
