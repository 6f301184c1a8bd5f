/** Sections of a segment file: a list in which each one says where the next begins. */

import { adler32 } from '../../src/base/checksum.ts';
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import type { Segments } from './segments.ts';
import { Descriptor, FILE_HEADER } from './structs.ts';

const CHECKSUM = Descriptor.offsetOf('checksum');

export interface Section {
  /** `volume`, `table`, `done`, … */
  readonly type: string;
  readonly segment: number;
  /** Where its descriptor lies, its content begins, and the next section begins. */
  readonly at: Bytes;
  readonly bodyAt: Bytes;
  readonly end: Bytes;
}

/** Some devices of Logicube write 0 in the place of a checksum. */
export type Sum = 'holds' | 'none' | 'wrong';

/** The Adler-32 at `at`, of what stands before it. */
export function sumAt(raw: Uint8Array, at: number): Sum {
  const stored = viewOf(raw).getUint32(at, true);
  return adler32(raw.subarray(0, at)) === stored ? 'holds' : stored === 0 ? 'none' : 'wrong';
}

export const corrupt = (message: string, file: string, at: Bytes, field?: string): ImageError =>
  new ImageError('corrupt', message, field === undefined ? { file, at } : { file, at, field });

const textOf = (type: Uint8Array): string => Buffer.from(type).toString('latin1').replace(/\0.*$/s, '');
const isLast = (type: string): boolean => type === 'next' || type === 'done';

/** The descriptor in `raw`, which lies at `at`. 'corrupt' when its checksum is wrong or it leads back or out of the file. */
function parseSection(segments: Segments, segment: number, raw: Uint8Array, at: Bytes): Section {
  const file = segments.name(segment);
  if (sumAt(raw, CHECKSUM) === 'wrong') {
    throw corrupt('the checksum of a section does not hold', file, at, 'checksum');
  }
  const { type: rawType, next } = Descriptor.parse(raw, 0, file);
  const type = textOf(rawType);
  const bodyAt = at + Descriptor.size;
  if (isLast(type)) return { type, segment, at, bodyAt, end: bodyAt };
  if (next < bodyAt || next + Descriptor.size > segments.size(segment)) {
    throw corrupt(`section "${type}" leads to ${next}, where no other can begin`, file, at, 'next');
  }
  return { type, segment, at, bodyAt, end: next };
}

async function readSection(segments: Segments, segment: number, at: Bytes): Promise<Section> {
  const raw = new Uint8Array(Descriptor.size);
  if (at + raw.length > segments.size(segment)) {
    throw corrupt('the file ends before its last section', segments.name(segment), segments.size(segment));
  }
  await segments.read(segment, raw, at);
  return parseSection(segments, segment, raw, at);
}

/** The sections of a file in order, `next` or `done` last. */
export async function* sectionsOf(segments: Segments, segment: number): AsyncGenerator<Section, void> {
  for (let at = FILE_HEADER; ; ) {
    const section = await readSection(segments, segment, at);
    yield section;
    if (isLast(section.type)) return;
    at = section.end;
  }
}

/** The content of a section, or as much of it as `most` bytes. */
export async function bodyOf(segments: Segments, section: Section, most: Bytes): Promise<Uint8Array> {
  const body = new Uint8Array(Math.min(most, section.end - section.bodyAt));
  await segments.read(section.segment, body, section.bodyAt);
  return body;
}

/**
 * Whether another file follows. The last section stands at the end of the file, where it is found at once; else the list
 * is followed from its beginning.
 */
export async function lastSection(segments: Segments, segment: number): Promise<'next' | 'done'> {
  const tailAt = segments.size(segment) - Descriptor.size;
  const raw = new Uint8Array(Descriptor.size);
  if (tailAt >= FILE_HEADER) {
    await segments.read(segment, raw, tailAt);
    // What stands there may be anything until its checksum says that it is a section.
    const found = sumAt(raw, CHECKSUM) === 'holds' ? Descriptor.parse(raw) : null;
    const type = found?.next === tailAt ? textOf(found.type) : '';
    if (type === 'next' || type === 'done') return type;
  }
  let last = '';
  for await (const { type } of sectionsOf(segments, segment)) last = type;
  return last === 'done' ? 'done' : 'next';
}
