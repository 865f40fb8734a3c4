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

const cell = (text: string) => text.replace(/[\t\n\r]/g, " ");
const range = (length: number) => Array.from({ length }, (_, i) => i);
