/** AFF4 and EWF images that were made to hurt. */
import { deflateRawSync, deflateSync } from 'node:zlib';
import { volumeFile, zipFile } from '../../../formats/aff4/fixtures.ts';
import { ewfFiles, fileHeader, section, summed, tableBody, volumeBody } from '../../../formats/ewf/fixtures.ts';
import type { Files } from '../../fuzz/damage.ts';
import { BOMB, changed, type Hostile, text } from './hostile.ts';

// ── AFF4 ───────────────────────────────────────────────────────────────────────

const VOLUME = 'aff4://685e15cc-d0fb-4dbc-ba47-48117fc77044';
export const aff4With = (edit: (turtle: string) => string): Files => ({
  'a.aff4': volumeFile({
    name: VOLUME,
    image: 'aff4://cf853d0b',
    size: 8192,
    streams: [{ name: 'aff4://c215ba20', content: new Uint8Array(8192).fill(3) }],
    changed: members => {
      members['information.turtle'] = text(edit(Buffer.from(members['information.turtle']!).toString()));
    },
  }),
});

/** A member that is packed: the entry of the directory says so. */
function deflatedTurtle(): Files {
  const packed = deflateRawSync(BOMB);
  const file = zipFile({ 'container.description': text(VOLUME), 'information.turtle': packed }, VOLUME);
  const at = Buffer.from(file).lastIndexOf(Buffer.from('information.turtle')) - 46;
  return {
    'a.aff4': changed(file, view => {
      view.setUint16(at + 10, 8, true);
      view.setBigUint64(at + 46 + 18 + 4, BigInt(BOMB.length), true);
    }),
  };
}

export const AFF4: readonly Omit<Hostile, 'adapter'>[] = [
  {
    what: 'an archive of 2^50 members',
    name: 'a.aff4',
    files: () => {
      const { 'a.aff4': file } = aff4With(turtle => turtle);
      const end = Buffer.from(file!).lastIndexOf(Buffer.from('PK\x06\x06', 'latin1'));
      return { 'a.aff4': changed(file!, view => view.setBigUint64(end + 32, 2n ** 50n, true)) };
    },
  },
  { what: 'a description that is a bomb', name: 'a.aff4', files: deflatedTurtle },
  {
    what: 'objects in objects',
    name: 'a.aff4',
    files: () => aff4With(turtle => `${turtle}<x> a ${'['.repeat(500_000)}`),
  },
  {
    what: 'chunks of 2 GiB',
    name: 'a.aff4',
    files: () => aff4With(turtle => turtle.replace('chunkSize "4096"', `chunkSize "${2 ** 31}"`)),
  },
];

// ── EWF ────────────────────────────────────────────────────────────────────────

function ewfWith(...sections: readonly ((at: number) => Buffer)[]): Files {
  let file = Buffer.concat([fileHeader(1), section('volume', 13, volumeBody(65_536, 8))]);
  for (const make of sections) file = Buffer.concat([file, make(file.length)]);
  const done = section('done', file.length, new Uint8Array(0), file.length);
  return { 'a.E01': Buffer.concat([file, done]) };
}

export const EWF: readonly Omit<Hostile, 'adapter'>[] = [
  {
    what: 'a list of sections that leads to itself',
    name: 'a.E01',
    files: () => ewfWith(at => section('sectors', at, new Uint8Array(100), at)),
  },
  {
    what: 'a table of 2^32 entries',
    name: 'a.E01',
    files: () =>
      ewfWith(
        at => section('sectors', at, new Uint8Array(100)),
        at =>
          section(
            'table',
            at,
            summed(
              changed(tableBody([], 0), view => view.setUint32(0, 0xffff_ffff, true)),
              20,
            ),
          ),
      ),
  },
  {
    what: 'a chunk that is a bomb',
    name: 'a.E01',
    files: () => {
      const file = Buffer.from(ewfFiles({ content: new Uint8Array(4096), compressed: true })['made.E01']!);
      const bomb = deflateSync(BOMB);
      const head = file.subarray(0, 13 + 76 + 1052);
      const sectors = section('sectors', head.length, bomb);
      const table = section('table', head.length + sectors.length, tableBody([head.length + 76 + 0x8000_0000], 0));
      const at = head.length + sectors.length + table.length;
      return { 'a.E01': Buffer.concat([head, sectors, table, section('done', at, new Uint8Array(0), at)]) };
    },
  },
];
