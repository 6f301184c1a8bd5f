/** Names of segment files: `.E01` to `.E99`, then `.EAA` to `.EZZ`, `.FAA` to `.ZZZ`; likewise from `.S01`. */

export interface SegmentNames {
  /** Number of the segment with the name that was given, from 1. */
  readonly number: number;
  /** null: there are no names for so many segments. */
  nameOf(number: number): string | null;
}

const LETTERS = 26;
const A = 'A'.charCodeAt(0);
const letter = (n: number): string => String.fromCharCode(A + n);

function extensionOf(first: string, number: number): string | null {
  if (number < 100) return `${first}${String(number).padStart(2, '0')}`;
  const behind = number - 100;
  const leading = first.charCodeAt(0) - A + Math.floor(behind / LETTERS ** 2);
  if (leading >= LETTERS) return null;
  return letter(leading) + letter(Math.floor(behind / LETTERS) % LETTERS) + letter(behind % LETTERS);
}

/** How the segments beside `name` are called, whose file header says `number`; null when the name is none of a series. */
export function segmentNames(name: string, number: number): SegmentNames | null {
  const [, stem, extension] = /^(.*)\.([A-Za-z][0-9A-Za-z]{2})$/s.exec(name) ?? [];
  if (stem === undefined || extension === undefined) return null;
  const isLower = extension === extension.toLowerCase();
  const first = ['E', 'S'].find(each => extensionOf(each, number) === extension.toUpperCase());
  if (first === undefined) return null;
  return {
    number,
    nameOf(wanted) {
      const found = extensionOf(first, wanted);
      return found === null ? null : `${stem}.${isLower ? found.toLowerCase() : found}`;
    },
  };
}
