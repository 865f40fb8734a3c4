// A view's values as a table: what "as table" shows and "copy" copies.

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

const safe = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** The table as an SVG, for views that are made of text. said: a number as it is shown. */
export function tableSvg(data: TableData, title: string, ink: string, said: (value: number) => string): string {
  const heads = [data.rowAxis, ...range(data.columns).map(data.columnName)];
  const lines = range(data.rows).map((r) => [
    data.rowName(r),
    ...range(data.columns).map((c) => data.value(r, c)).map((value) => (typeof value === "number" ? said(value) : value)),
  ]);
  const widths = heads.map((head, c) => 8.5 * Math.max(...[head, ...lines.map((line) => line[c] ?? "")].map((text) => [...text].length)) + 20);
  const ends = widths.map((_, c) => widths.slice(0, c + 1).reduce((sum, each) => sum + each, 0));
  const line = (cells: string[], y: number) =>
    cells.map((text, c) => `<text x="${c ? ends[c]! - 8 : 8}" y="${y}"${c ? ' text-anchor="end"' : ""}>${safe(text)}</text>`).join("");
  const [width, height] = [Math.ceil(ends.at(-1) ?? 0), 24 * lines.length + 66];
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="14" ` +
    `fill="${ink}"><title>${safe(title)}</title><g font-weight="650">${line(heads, 22)}</g>` +
    `${lines.map((cells, i) => line(cells, 48 + 24 * i)).join("")}<text x="8" y="${height - 8}">${safe(title)}</text></svg>`
  );
}

const cell = (text: string) => text.replace(/[\t\n\r]/g, " ");
const range = (length: number) => Array.from({ length }, (_, i) => i);
