/** The files in a tar archive, as an OVA is one. */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { roundUp } from '../../src/base/range.ts';
import { SECTOR as BLOCK, type Extra, extraOf, parseHeader } from '../../src/base/tar.ts';

const MOST_MEMBERS = 4096;
const LONGEST_EXTRA = 1_048_576;

export interface Member {
  readonly name: string;
  readonly at: Bytes;
  readonly size: Bytes;
  /** Seconds since 1970; 0 when the archive does not say. */
  readonly modified: number;
}

/**
 * Regular files in the order of the archive: one read of 512 bytes each. Ends at the first block of zeros. 'corrupt'
 * where a header does not hold or a member leaves the file.
 */
export async function tarMembers(source: ByteSource): Promise<readonly Member[]> {
  const members: Member[] = [];
  const block = new Uint8Array(BLOCK);
  let extra: Extra = {};
  for (let at = 0, headers = 0; at + BLOCK <= source.size; headers++) {
    await source.read(block, at);
    if (block.every(byte => byte === 0)) return members;
    if (headers === 4 * MOST_MEMBERS || members.length === MOST_MEMBERS) {
      throw new ImageError('unsupported', `more than ${MOST_MEMBERS} members`, { file: source.name, at });
    }
    const header = parseHeader(block, at, source.name);
    const size = extra.size ?? header.size;
    const dataAt = at + BLOCK;
    if (dataAt + size > source.size) {
      const message = `${JSON.stringify(extra.name ?? header.name)} needs ${size} bytes, ${source.size - dataAt} are there: the archive was cut off`;
      throw new ImageError('corrupt', message, { file: source.name, at });
    }
    at = dataAt + roundUp(size, BLOCK);
    if (header.type === 'x' || header.type === 'L') {
      if (size > LONGEST_EXTRA)
        throw new ImageError('corrupt', `an extra header of ${size} bytes`, { file: source.name, at: dataAt });
      const data = new Uint8Array(size);
      await source.read(data, dataAt);
      extra = { ...extra, ...extraOf(header.type, data) };
      continue;
    }
    if (header.type === '0' || header.type === '7') {
      members.push({ name: extra.name ?? header.name, at: dataAt, size, modified: header.modified });
    } else if (header.type === 'S') {
      throw new ImageError('unsupported', 'sparse members of a tar archive are not known', {
        file: source.name,
        at: dataAt - BLOCK,
      });
    }
    if (header.type !== 'g') extra = {};
  }
  return members;
}
