/**
 * One error class for everything that can be wrong with an image, a store or a request, and the
 * only two places where an errno (for the mount) and an exit code (for the command line) are chosen.
 */

export type Fault =
  | 'not-this-format'
  | 'unsupported'
  | 'corrupt'
  | 'broken-chain'
  | 'wrong-key'
  | 'locked'
  | 'out-of-range'
  | 'read-only'
  | 'not-found'
  | 'exists'
  | 'busy'
  | 'no-space'
  | 'too-big'
  | 'usage'
  | 'io';

/** Where a fault lies: the file by its name in the store, the byte offset in that file, the field by its name. */
export interface Where {
  readonly file?: string;
  readonly at?: number;
  readonly field?: string;
}

export class ImageError extends Error {
  readonly fault: Fault;
  readonly where: Where;
  /** One line that tells the user what to do, where there is something. */
  readonly hint: string | undefined;

  constructor(fault: Fault, message: string, where: Where = {}, options: { cause?: unknown; hint?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ImageError';
    this.fault = fault;
    this.where = where;
    this.hint = options.hint;
  }
}

const ERRNO = {
  'not-this-format': 22,
  unsupported: 95,
  corrupt: 5,
  'broken-chain': 5,
  'wrong-key': 13,
  locked: 13,
  'out-of-range': 22,
  'read-only': 30,
  'not-found': 2,
  exists: 17,
  busy: 16,
  'no-space': 28,
  'too-big': 27,
  usage: 22,
  io: 5,
} as const satisfies Record<Fault, number>;

const EXIT = {
  'not-this-format': 3,
  unsupported: 1,
  corrupt: 5,
  'broken-chain': 5,
  'wrong-key': 5,
  locked: 5,
  'out-of-range': 1,
  'read-only': 1,
  'not-found': 3,
  exists: 1,
  busy: 4,
  'no-space': 1,
  'too-big': 1,
  usage: 2,
  io: 1,
} as const satisfies Record<Fault, number>;

/** Positive Linux errno for a reply on the mount. Anything unknown is EIO: an error is never silence. */
export function errnoOf(error: unknown): number {
  if (error instanceof ImageError) return ERRNO[error.fault];
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code === 'ENOSPC' || code === 'EDQUOT') return 28;
  return 5;
}

/** Exit code of the command line (docs: 0 ok, 1 error, 2 usage, 3 not found, 4 busy, 5 integrity or authentication). */
export function exitCodeOf(error: unknown): number {
  if (error instanceof ImageError) return EXIT[error.fault];
  return (error as NodeJS.ErrnoException | null)?.code === 'ENOENT' ? 3 : 1;
}
