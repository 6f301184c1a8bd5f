/** Clones in a state folder, each of which needs the restore point that it was made of. */
import fs from 'node:fs';
import path from 'node:path';
import { ImageError } from '../base/errors.ts';
import type { ClonePin } from '../jobs/consolidate.ts';

/** Throws 'corrupt' for a record that cannot be read: what it is a clone of must not be guessed. */
export function clonesIn(state: string): readonly ClonePin[] {
  const folder = path.join(state, 'clones');
  if (!fs.existsSync(folder)) return [];
  return fs
    .readdirSync(folder)
    .map(name => path.join(folder, name, 'clone.json'))
    .filter(file => fs.existsSync(file))
    .map(readPin);
}

function readPin(file: string): ClonePin {
  let found: Partial<ClonePin> | null = null;
  try {
    found = JSON.parse(fs.readFileSync(file, 'utf8')) as Partial<ClonePin> | null;
  } catch (cause) {
    throw new ImageError('corrupt', 'the record of a clone cannot be read', { file }, { cause });
  }
  const { name, set, point } = found ?? {};
  if (typeof name === 'string' && typeof set === 'string' && typeof point === 'string') return { name, set, point };
  throw new ImageError('corrupt', 'the record of a clone does not say what it was made of', { file });
}
