// Which cells of a matrix a box shows, and where: fit, zoom, pan. Pixels are CSS pixels; it draws nothing.

export interface Box {
  width: number;
  height: number;
}
/** The cell at the box's upper left, in fractions of a cell, and the pixels of one cell. */
export interface View {
  x: number;
  y: number;
  wide: number;
  high: number;
}
export interface Size {
  rows: number;
  columns: number;
}

/** The whole matrix in the box. high: at most so many pixels a row, where cells need not be square (strips). */
export function fit(size: Size, width: number, most: { cell: number; height: number }, high?: number): View {
  const across = width / size.columns;
  if (high !== undefined) return { x: 0, y: 0, wide: Math.min(across, most.cell), high: Math.min(high, most.height / size.rows) };
  const cell = Math.min(across, most.height / size.rows, most.cell);
  return { x: 0, y: 0, wide: cell, high: cell };
}

/** Larger by a factor around a pixel of the box; never smaller than the whole. mostHigh: pixels that a row grows to. */
export function zoomed(view: View, whole: View, factor: number, at: { x: number; y: number }, mostHigh = Infinity): View {
  const wide = Math.min(Math.max(view.wide * factor, whole.wide), Math.max(64, whole.wide));
  const high = Math.min(whole.high * (wide / whole.wide), Math.max(mostHigh, whole.high));
  return { wide, high, x: view.x + at.x / view.wide - at.x / wide, y: view.y + at.y / view.high - at.y / high };
}

/** Moved back to where the box is full of cells. */
export function inside(view: View, size: Size, box: Box): View {
  const x = Math.min(Math.max(0, view.x), Math.max(0, size.columns - box.width / view.wide));
  const y = Math.min(Math.max(0, view.y), Math.max(0, size.rows - box.height / view.high));
  return { ...view, x, y };
}

/** Moved so far that the cell is in the box. */
export function showing(view: View, box: Box, row: number, column: number): View {
  const x = Math.min(Math.max(view.x, column + 1 - box.width / view.wide), column);
  const y = Math.min(Math.max(view.y, row + 1 - box.height / view.high), row);
  return { ...view, x, y };
}

/** The cell under a pixel, or null outside. */
export function cellAt(view: View, size: Size, x: number, y: number): { row: number; column: number } | null {
  const column = Math.floor(view.x + x / view.wide);
  const row = Math.floor(view.y + y / view.high);
  return row >= 0 && column >= 0 && row < size.rows && column < size.columns ? { row, column } : null;
}

/** Which labels have room, `apart` pixels each: every one, every 2nd, 5th, 10th, … . */
export function labelled(from: number, to: number, count: number, cell: number, apart: number): number[] {
  const need = apart / cell;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, need)));
  const step = need <= 1 ? 1 : ([1, 2, 5, 10].find((each) => each * power >= need) ?? 10) * power;
  const first = Math.max(0, Math.ceil(from / step) * step);
  const labels: number[] = [];
  for (let i = first; i < Math.min(to, count); i += step) labels.push(i);
  return labels;
}
