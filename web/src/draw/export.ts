// Views as files: SVG and PNG. It does not know what the views show.
import { number } from "../lib/text";
import { colourAt, css, type Scale, type Theme, valueAt } from "./colours";

interface Drawn {
  image: string;
  rows: number;
  columns: number;
  wide: number;
  high: number;
  left: number;
  top: number;
  rowLabels: [number, string][];
  columnLabels: [number, string][];
  columnWords: boolean;
  title: string;
  scale: Scale;
  theme: Theme;
}
const SVG = "http://www.w3.org/2000/svg";
const KEY = 320; // of a scale's colours, wide
const FONT = "system-ui, sans-serif";
/** Text as it stands in XML. */
export const safe = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** An SVG of its own: the page's font, in the ink of the page's colours. */
export function svgFile(width: number, height: number, title: string, theme: Theme, drawn: string): string {
  const ink = theme === "dark" ? "#e8eaee" : "#181a1f";
  return (
    `<svg xmlns="${SVG}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}" ` +
    `font-size="14" fill="${ink}"><title>${safe(title)}</title>${drawn}</svg>`
  );
}

/** A matrix with its labels: text as text, the cells as one image of a pixel each. */
export function matrixSvg(m: Drawn): string {
  const [width, height] = [Math.max(m.left + m.columns * m.wide, m.left + KEY) + 60, m.top + m.rows * m.high + 78];
  const rows = m.rowLabels.map(
    ([i, name]) => `<text x="${m.left - 8}" y="${m.top + (i + 0.5) * m.high + 5}" text-anchor="end">${safe(name)}</text>`,
  );
  const columns = m.columnLabels.map(([i, name]) => {
    const [x, y] = [m.left + (i + 0.5) * m.wide, m.top - 6];
    const turn = m.columnWords ? ` transform="rotate(-60 ${x} ${y})"` : ' text-anchor="middle"';
    return `<text x="${x}" y="${y}"${turn}>${safe(name)}</text>`;
  });
  const drawn =
    `${rows.join("")}${columns.join("")}` +
    `<image x="${m.left}" y="${m.top}" width="${m.columns * m.wide}" height="${m.rows * m.high}" ` +
    `preserveAspectRatio="none" style="image-rendering:pixelated" href="${m.image}"/>` +
    `<text x="${m.left}" y="${height - 54}">${safe(m.title)}</text>${key(m, m.left, height - 40)}`;
  return svgFile(width, height, m.title, m.theme, drawn);
}

/** The scale's colours with the values that they stand for. */
function key({ scale, theme }: Drawn, left: number, top: number): string {
  const place = (share: number) => (scale.diverging ? share * 2 - 1 : share);
  const wide = KEY / 64;
  const cells = Array.from({ length: 64 }, (_, i) =>
    `<rect x="${left + i * wide}" y="${top}" width="${wide + 0.5}" height="10" fill="${css(colourAt(place((i + 0.5) / 64), theme))}"/>`);
  const ticks = (scale.diverging ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1]).map((share) =>
    `<text x="${left + share * KEY}" y="${top + 28}" text-anchor="middle">${number(valueAt(place(share), scale))}</text>`);
  return cells.join("") + ticks.join("");
}

const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity",
  "font-size", "font-family", "font-weight", "text-anchor", "dominant-baseline"];
const LAID = ["color", "background-color", "font", "font-variant-numeric", "display", "flex", "flex-flow", "gap",
  "grid-template-columns", "grid-column", "align-items", "justify-content", "width", "height", "min-width", "max-width",
  "margin", "padding", "border-top", "border-right", "border-bottom", "border-left", "border-radius", "appearance", "border-collapse", "box-sizing", "position", "inset", "transform",
  "transform-origin", "text-align", "vertical-align", "white-space", "overflow", "list-style", "clip-path", "opacity"];

/** An <svg> of the page on its own: what its elements take from the page's style sheet is written into them. */
export function svgOf(element: SVGSVGElement): string {
  const copy = inlined(element, DRAWN, (each, name, value) => each.setAttribute(name, value)) as SVGSVGElement;
  const { width, height } = element.getBoundingClientRect();
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  return new XMLSerializer().serializeToString(copy);
}

/** A view of text: the page's own elements inside an SVG, as they are laid out now. */
export function svgOfText(element: HTMLElement): string {
  const copy = inlined(element, [...LAID, ...DRAWN], (each, name, value) =>
    (each as HTMLElement | SVGElement).style.setProperty(name, value),
  );
  const { scrollWidth: width, scrollHeight: height } = element;
  const inside = new XMLSerializer().serializeToString(copy);
  return (
    `<svg xmlns="${SVG}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">` +
    `<foreignObject width="100%" height="100%">${inside}</foreignObject></svg>`
  );
}

function inlined(
  element: Element, names: string[], write: (each: Element, name: string, value: string) => void,
): Element {
  const copy = element.cloneNode(true) as Element;
  const theirs = [element, ...element.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((each, i) => {
    const style = getComputedStyle(theirs[i] as Element);
    each.removeAttribute("class");
    each.removeAttribute("style");
    for (const name of names) write(each, name, style.getPropertyValue(name));
  });
  return copy;
}

/** An SVG as a PNG of twice its size. */
export async function rasterized(svg: string): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`; // a blob: with HTML inside may not be read back
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width * 2, image.height * 2];
  const context = canvas.getContext("2d")!;
  context.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser drew no PNG"))), "image/png"),
  );
}

/** Hand a file to the reader. */
export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
