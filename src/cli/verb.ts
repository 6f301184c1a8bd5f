/** What a verb of the command line is, and what it gets to work with. */
import type { Argv } from 'yargs';
import type { Adapter, Bytes } from '../base/contracts.ts';

export type Args = Readonly<Record<string, unknown>>;

export interface Bar {
  /** How much of the total is done; may be called as often as is convenient. */
  at(done: Bytes): void;
  end(): void;
}

export interface Context {
  /** One line (or several) on stdout. Text from a backup goes through `display` first; `outJson` does that by itself. */
  out(text: string): void;
  /** The one JSON document of `--json`. */
  outJson(value: unknown): void;
  /** A line for people on stderr: warnings, hints, what is going on. Never part of the result. */
  note(text: string): void;
  /** The exit code, for a verb whose output is complete but not good news (`verify` with findings: 5). */
  exitCode(code: number): void;
  /** The formats that can be read: those that are built in, and before them those of `--adapter`. */
  adapters(): Promise<readonly Adapter[]>;
  readonly json: boolean;
  readonly verbose: boolean;
  /** Aborted by SIGINT, SIGTERM and SIGHUP. A second signal ends the program at once. */
  readonly signal: AbortSignal;
  /** A bar on stderr, shown only on a terminal and only when the work takes longer than a second. */
  progress(title: string, total: Bytes): Bar;
}

export interface Verb {
  readonly name: string;
  /** As yargs writes them: `<repo> [set]`, `<path..>`; empty when there are none. */
  readonly positionals: string;
  readonly summary: string;
  /** A whole command line that works. */
  readonly example: string;
  /** Declares positionals (always as strings) and flags. */
  build(yargs: Argv): Argv;
  /** `args`: write the type that `build` declares, `run(args: { repo: string; set?: string }, context)`. */
  run(args: Args, context: Context): Promise<void>;
}
