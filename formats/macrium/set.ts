/**
 * Which files a restore point is read from. The base is the newest file with a full index; the deltas above it follow
 * by their file numbers. Names and backup types decide nothing (`src/libs/file_reader/backup_set.cpp` of
 * github.com/macrium/mrimgx_file_layout).
 */
import { ImageError } from '../../src/base/errors.ts';
import type { Member } from './files.ts';

export interface Lineage {
  /** The file whose blocks show where this one is silent; null when its index is full, or when it is missing. */
  readonly parent: Member | null;
  /** The point that this one was made on, by number. */
  readonly before: Member | null;
  /** The newest full index at or below the file; null when it is missing. */
  readonly base: Member | null;
  /** Data of a split backup that belongs to this file's index. */
  readonly parts: readonly Member[];
  /** The file that holds the blocks of the given number. */
  holder(fileNumber: number): Member | null;
  /** 'broken-chain', naming the first file number that nobody holds. */
  readonly problem: ImageError | null;
}

const numberOf = (member: Member): number => member.description.fileNumber;

/** The file with that number, else the one that it was merged into. Whoever asks holds what was merged into itself. */
function holderOf(file: Member, members: readonly Member[], wanted: number): Member | null {
  if (numberOf(file) === wanted || file.description.merged.includes(wanted)) return file;
  return (
    members.find(member => numberOf(member) === wanted) ??
    members.find(member => member.description.merged.includes(wanted)) ??
    null
  );
}

/** Numbers that have to be there for the file to be read. */
function needed(file: Member, base: Member | null): readonly number[] {
  const { history, fileNumber, incrementNumber } = file.description;
  const numbers = new Set([...history.keys()].filter(number => number < fileNumber));
  // What the history does not tell: the parts of a split full, and the deltas since the base.
  const first = incrementNumber === 0 ? 0 : history.size > 0 || base === null ? fileNumber : numberOf(base) + 1;
  for (let number = first; number < fileNumber; number++) numbers.add(number);
  if (base === null && numbers.size === 0) numbers.add(0);
  return [...numbers].sort((a, b) => a - b);
}

function missing(file: Member, number: number, full: boolean): ImageError {
  const known = file.description.history.get(number);
  const named = known === undefined || known === '' ? '' : ` (${known})`;
  const what = full ? `no file with a full index is here; file number ${number}` : `file number ${number}`;
  return new ImageError('broken-chain', `${what} of the backup set${named} is missing`, { file: file.name });
}

/** `set` holds the file itself too, in any order. */
export function lineageOf(file: Member, set: readonly Member[]): Lineage {
  const { incrementNumber, fileNumber, delta } = file.description;
  const members = set
    .filter(member => member.name !== file.name && numberOf(member) !== fileNumber)
    .filter(member => member.description.incrementNumber <= incrementNumber)
    .sort((a, b) => numberOf(b) - numberOf(a) || (a.name < b.name ? -1 : 1));
  const older = members.filter(member => numberOf(member) < fileNumber);
  const indexed = older.filter(member => !member.description.split);
  const base = delta ? (indexed.find(member => !member.description.delta) ?? null) : file;
  const lost = needed(file, base).find(number => holderOf(file, members, number) === null);
  const before = indexed[0] ?? null;
  return {
    parent: delta && base !== null ? before : null,
    before: file.description.type === 'differential' ? (indexed.findLast(m => !m.description.delta) ?? before) : before,
    base,
    parts: older.filter(member => member.description.split && member.description.incrementNumber === incrementNumber),
    holder: number => holderOf(file, members, number),
    problem: lost !== undefined ? missing(file, lost, base === null) : base === null ? missing(file, 0, true) : null,
  };
}
