// A view's values as a table: what "as table" shows and "copy" copies.
import type { Theme } from "./colours";
import { safe, svgFile } from "./export";

export interface TableData {
  rows: number;
  columns: number;
  rowName: (row: number) => string;
  columnName: (column: number) => string;
  rowAxis: string;
  columnAxis: string;
  value: (row: number, column: number) => number | string;
  /** Look into one value. */
  look?: (row: number, column: number) => void;
}

/** Lines of tab-separated values with all digits, for a spreadsheet. */
export function tabSeparated(data: TableData): string {
  const heads = [`${data.rowAxis} \\ ${data.columnAxis}`, ...range(data.columns).map(data.columnName)];
  const lines = range(data.rows).map((r) => [data.rowName(r), ...range(data.columns).map((c) => data.value(r, c))]);
  return [heads, ...lines].map((cells) => cells.map(String).map(cell).join("\t")).join("\n");
}

/** A table of named columns, one row a record. */
export function records(rowAxis: string, names: string[], columns: Record<string, (number | string)[]>): TableData {
  const heads = Object.keys(columns);
  return {
    rows: names.length, columns: heads.length, rowAxis, columnAxis: "",
    rowName: (r) => names[r] ?? "", columnName: (c) => heads[c] ?? "",
    value: (r, c) => columns[heads[c] ?? ""]?.[r] ?? "",
  };
}

/** The table as an SVG, all of its rows. said: a number as it is shown. */
export function tableSvg(data: TableData, title: string, theme: Theme, said: (value: number) => string): string {
  const heads = [data.rowAxis, ...range(data.columns).map(data.columnName)];
  const lines = range(data.rows).map((r) => {
    const values = range(data.columns).map((c) => data.value(r, c));
    return [data.rowName(r), ...values.map((value) => (typeof value === "number" ? said(value) : value))];
  });
  const longest = heads.map((_, c) => Math.max(...[heads, ...lines].map((line) => [...(line[c] ?? "")].length)));
  const ends: number[] = [];
  for (const each of longest) ends.push((ends.at(-1) ?? 0) + 8.5 * each + 20);
  const text = (words: string, c: number, y: number) =>
    `<text y="${y}" ${c ? `x="${ends[c]! - 8}" text-anchor="end"` : 'x="8"'}>${safe(words)}</text>`;
  const drawn = [heads, ...lines].map((line, r) => line.map((words, c) => text(words, c, 22 + 24 * r)).join(""));
  return svgFile(Math.ceil(ends.at(-1) ?? 0), 24 * lines.length + 36, title, theme, drawn.join(""));
}

const cell = (text: string) => text.replace(/[\t\n\r]/g, " ");
const range = (length: number) => Array.from({ length }, (_, i) => i);
