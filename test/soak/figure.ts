/** What every figure of the soak has in common. */

export interface Run {
  /** How much of what the figure counts; the full number unless `--count` says otherwise. */
  count(full: number): number;
  /** A planted error, by name: the figure has to be missed because of it. */
  readonly plant: string | null;
  readonly seed: number;
  /** One line of the result. */
  verdict(what: string, reached: boolean, seen: string): void;
  say(text: string): void;
}

export interface Figure {
  readonly name: string;
  /** One line for the list of figures. */
  readonly what: string;
  /** Errors that can be planted; each of them has to turn the figure red. */
  readonly plants: readonly string[];
  run(run: Run): Promise<void>;
}

export const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));
