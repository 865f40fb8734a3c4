// A matrix at half, a quarter, … of its size, each value the one of largest size of those it stands for: attention is
// spikes, which an average would lose. It draws nothing.

export interface Level {
  values: Float32Array;
  rows: number;
  columns: number;
  /** Cells of the matrix along a side of one of this level's. */
  step: number;
}

/** The matrix, then ever smaller ones down to `least` a side. */
export function pyramid(values: Float32Array, rows: number, columns: number, least = 256): Level[] {
  const levels: Level[] = [{ values, rows, columns, step: 1 }];
  let last = levels[0] as Level;
  while (last.rows > least || last.columns > least) {
    last = halved(last);
    levels.push(last);
  }
  return levels;
}

/** The smallest level that still has a value for each pixel. pixels: of one cell of the matrix. */
export function levelFor(levels: Level[], pixels: number): Level {
  return levels.findLast((level) => level.step * pixels <= 1) ?? (levels[0] as Level);
}

function halved({ values, rows, columns, step }: Level): Level {
  const height = Math.ceil(rows / 2);
  const width = Math.ceil(columns / 2);
  const small = new Float32Array(height * width);
  for (let r = 0; r < height; r++)
    for (let c = 0; c < width; c++) {
      const at = 2 * r * columns + 2 * c;
      const right = 2 * c + 1 < columns;
      let most = values[at] as number;
      if (right) most = larger(most, values[at + 1] as number);
      if (2 * r + 1 < rows) {
        most = larger(most, values[at + columns] as number);
        if (right) most = larger(most, values[at + columns + 1] as number);
      }
      small[r * width + c] = most;
    }
  return { values: small, rows: height, columns: width, step: step * 2 };
}

/** NaN outlives every number, so that it is seen; a finite value outlives −∞, the mask. */
function larger(a: number, b: number): number {
  if (a !== a || b !== b) return Number.NaN;
  if (a === -Infinity) return b;
  if (b === -Infinity) return a;
  return Math.abs(b) > Math.abs(a) ? b : a;
}
