/**
 * Requests that may be what serving processes die of. Of what is sent again after such a death, each process notes on
 * disk what it begins to serve and what it has answered; what its successor finds begun and not answered was in hand
 * when it died. A request that was in hand at several deaths is refused, so that the mount goes on without it.
 *
 * Lines: `r UNIQUE POINTS` (begun, with what it is blamed for so far), `a UNIQUE` (answered).
 */
import fs from 'node:fs';
import { writeFullNow } from '../../base/full-io.ts';

/**
 * By how the process ended: a crash or hang speaks against what was in hand. A kill from outside hardly does: a flush
 * may just take longer than the time between two kills.
 */
export const BLAME = { crash: 10, kill: 1, none: 0 } as const;
/** From so many points on a request is served alone, */
const ALONE = BLAME.crash;
/** and from so many on it is refused. */
const REFUSE = 2 * BLAME.crash;

function readHeld(file: string): Map<string, number> {
  const held = new Map<string, number>();
  if (!fs.existsSync(file)) return held;
  const content = fs.readFileSync(file, 'latin1');
  // A last line without its end was not begun.
  for (const line of content.slice(0, content.lastIndexOf('\n') + 1).split('\n')) {
    const [what, unique, points] = line.split(' ');
    if (what === 'r') held.set(unique!, Number(points));
    else if (what === 'a') held.delete(unique!);
  }
  return held;
}

export class Suspects {
  readonly #file: string;
  readonly #fd: number;
  /** Points of what the last process had in hand. */
  readonly #points: ReadonlyMap<string, number>;
  #size = 0;

  /** `blame`: points for what was in hand when the last process ended. */
  constructor(file: string, blame: number) {
    this.#file = file;
    this.#points = new Map([...readHeld(file)].map(([unique, points]) => [unique, points + blame]));
    this.#fd = fs.openSync(file, 'w', 0o600);
  }

  /** How a request that was sent again is to be served. */
  judge(unique: string): 'as any' | 'alone' | 'refused' {
    const points = this.#points.get(unique) ?? 0;
    return points >= REFUSE ? 'refused' : points >= ALONE ? 'alone' : 'as any';
  }

  /** Before it is served. */
  begun(unique: string): void {
    this.#write(`r ${unique} ${this.#points.get(unique) ?? 0}\n`);
  }

  /** After its answer. */
  answered(unique: string): void {
    this.#write(`a ${unique}\n`);
  }

  close(): void {
    fs.closeSync(this.#fd);
  }

  #write(line: string): void {
    const bytes = Buffer.from(line, 'latin1');
    writeFullNow(this.#fd, bytes, this.#size, this.#file);
    this.#size += bytes.length;
  }
}
