/**
 * Errors that callers of the mount were given, for the log: the caller only ever sees a number. Each kind of error is
 * told once a minute at most, since a guest asks again and again.
 */
import { ImageError } from '../base/errors.ts';

const QUIET_MS = 60_000;
/** So many kinds are told apart. */
const KINDS = 256;

interface Kind {
  /** Told again from then on, as `performance.now` counts. */
  from: number;
  untold: number;
}

/** Names out of a backup make no lines of their own. */
const oneLine = (text: string): string => text.replace(/\p{Cc}/gu, '?');

function textOf(error: unknown): string {
  if (!(error instanceof ImageError)) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  const { file, at, field } = error.where;
  const where = [file, at === undefined ? undefined : `at ${at}`, field].filter(part => part !== undefined).join(', ');
  return oneLine(
    `${error.message}${where === '' ? '' : ` (${where})`}${error.hint === undefined ? '' : `; ${error.hint}`}`,
  );
}

const kindOf = (error: unknown): string =>
  error instanceof ImageError ? `${error.fault} ${error.message} ${error.where.file ?? ''}` : String(error);

export class Complaints {
  readonly #log: (line: string) => void;
  readonly #kinds = new Map<string, Kind>();

  constructor(log: (line: string) => void) {
    this.#log = log;
  }

  /** `request`: in words. */
  note(request: string, error: unknown, now = performance.now()): void {
    const name = kindOf(error);
    const kind = this.#kinds.get(name);
    if (kind !== undefined && now < kind.from) {
      kind.untold++;
      return;
    }
    if (this.#kinds.size >= KINDS) this.#kinds.clear();
    this.#kinds.set(name, { from: now + QUIET_MS, untold: 0 });
    const before = kind === undefined || kind.untold === 0 ? '' : ` (and ${kind.untold} times before)`;
    this.#log(`${oneLine(request)}: ${textOf(error)}${before}`);
  }
}
