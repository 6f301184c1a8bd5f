/** Cases that once went wrong, kept whole: a seed may look different tomorrow. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';
import { random } from '../kit/random.ts';
import type { Case } from './case.ts';
import { DamagedFiles } from './damage.ts';

const FOLDER = path.join(import.meta.dirname, 'corpus');

interface Kept {
  readonly target: string;
  readonly name: string;
  /** What went wrong when it was found. */
  readonly why: string;
  /** Base64 of deflated content. */
  readonly files: Readonly<Record<string, string>>;
}

export interface CorpusCase {
  readonly file: string;
  readonly target: string;
  readonly tried: () => Case;
}

/** Writes a case down and gives its file's name. */
export function keep(target: string, { name, files }: Case, why: string): string {
  const packed = Object.entries(files.bytes()).map(
    ([file, bytes]) => [file, zlib.deflateSync(bytes, { level: 9 }).toString('base64')] as const,
  );
  const kept: Kept = { target, name, why: why.split('\n')[0]!, files: Object.fromEntries(packed) };
  const digest = createHash('sha256')
    .update(JSON.stringify([name, kept.files]))
    .digest('hex')
    .slice(0, 12);
  const file = `${target}-${digest}.json`;
  fs.mkdirSync(FOLDER, { recursive: true });
  fs.writeFileSync(path.join(FOLDER, file), `${JSON.stringify(kept, null, 2)}\n`);
  return file;
}

export function corpus(): readonly CorpusCase[] {
  const files = fs.existsSync(FOLDER) ? fs.readdirSync(FOLDER).filter(file => file.endsWith('.json')) : [];
  return files.map(file => {
    const kept = JSON.parse(fs.readFileSync(path.join(FOLDER, file), 'utf8')) as Kept;
    const content = Object.fromEntries(
      Object.entries(kept.files).map(([name, packed]) => [name, zlib.inflateSync(Buffer.from(packed, 'base64'))]),
    );
    const tried = (): Case => ({ name: kept.name, files: new DamagedFiles(content), numbers: random(1) });
    return { file, target: kept.target, tried };
  });
}
