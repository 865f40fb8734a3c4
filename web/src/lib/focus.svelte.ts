// The one focus: what is looked at in all views at once. It does not know what the views draw.

/** A place in the model. null: none chosen. */
export interface Place {
  token: number | null;
  layer: number | null;
  head: number | null;
}

export class Focus {
  /** Chosen: by a click or a key, kept in the address. */
  token = $state<number | null>(null);
  layer = $state<number | null>(null);
  head = $state<number | null>(null);
  /** The number that is looked into: a site and the index of a value in it, without the batch axis. */
  site = $state<string | null>(null);
  index = $state<number[]>([]);
  /** Under the pointer, for as long as it is there. */
  lit = $state<Partial<Place>>({});

  /** What views light up: what the pointer is on, else what is chosen. */
  get shown(): Place {
    return {
      token: this.lit.token ?? this.token,
      layer: this.lit.layer ?? this.layer,
      head: this.lit.head ?? this.head,
    };
  }

  /** Look into one number. */
  open(site: string, index: number[]): void {
    this.site = site;
    this.index = [...index];
  }

  close(): void {
    this.site = null;
    this.index = [];
  }

  /** "t3.l2.h5", the parts that are chosen. */
  get words(): string {
    const parts = [["t", this.token], ["l", this.layer], ["h", this.head]] as const;
    return parts.filter(([, value]) => value !== null).map(([letter, value]) => `${letter}${value}`).join(".");
  }

  set words(words: string) {
    const read = (letter: string) => {
      const found = new RegExp(`(?:^|\\.)${letter}(\\d+)(?:\\.|$)`).exec(words);
      return found ? Number(found[1]) : null;
    };
    [this.token, this.layer, this.head] = [read("t"), read("l"), read("h")];
  }

  /** Drop what is not in a run of those sizes: another prompt or model may be shorter. */
  fit(tokens: number, layers: number, heads: number): void {
    if (this.token === null || this.token >= tokens) this.token = tokens - 1;
    if (this.layer !== null && this.layer >= layers) this.layer = null;
    if (this.head !== null && this.head >= heads) this.head = null;
    this.lit = {};
  }
}
