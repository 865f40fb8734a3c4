// All heads' thumbnails as a file: each a cut of one image, with its block, head and score under it. It knows no page.
import { safe, svgFile } from "../../draw/export";
import type { Theme } from "../../draw/colours";
import { type Places, placeOf } from "./heads";

const [TITLE, LABEL] = [28, 34]; // pixels above all, and below each thumbnail

interface Heads {
  at: Places;
  inOrder: number[];
  heads: number;
  layers: number;
  /** Pixels of a thumbnail in the image, which has heads across and layers down. */
  side: number;
  image: string;
  theme: Theme;
  title: string;
  name: (head: number) => string;
  /** null: not sorted by a score. */
  score: ((head: number) => string) | null;
}

export function headsSvg({ at, inOrder, heads, layers, side, image, theme, title, name, score }: Heads): string {
  const [wide, high] = [Math.max(at.wide, 44), at.side + LABEL];
  const cells = inOrder.map((head) => {
    const { column, row } = placeOf(at, inOrder, heads, head);
    const [x, y] = [column * wide, TITLE + row * high];
    const cut = `${(head % heads) * side} ${Math.floor(head / heads) * side} ${side} ${side}`;
    const words = [score?.(head) ?? name(head), score ? name(head) : ""].map((text, i) =>
      `<text x="${x}" y="${y + at.side + 13 + 13 * i}" font-size="11">${safe(text)}</text>`);
    return (
      `<svg x="${x}" y="${y}" width="${at.side}" height="${at.side}" viewBox="${cut}"><use href="#all"/></svg>` +
      `<rect x="${x}" y="${y}" width="${at.side}" height="${at.side}" fill="none" stroke="#888" stroke-width="0.5"/>${words.join("")}`
    );
  });
  const all = `<defs><image id="all" width="${heads * side}" height="${layers * side}" style="image-rendering:pixelated" href="${image}"/></defs>`;
  const drawn = `${all}<text y="16">${safe(title)}</text>${cells.join("")}`;
  return svgFile(Math.max(at.columns * wide, 620), TITLE + at.rows * high, title, theme, drawn);
}
