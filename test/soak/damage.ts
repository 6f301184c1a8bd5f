/** Everything that can be done to the bytes of a small repository, one damage at a time. */
import { type RawRecord, recordsOf, sealChecksums, sealSum } from '../../formats/bml/raw-records.ts';
import {
  crcFits,
  FIRST_RECORD,
  KEY_AREA_SIZE,
  KEY_AREAS,
  PAGE,
  SLOTS,
  SUPERBLOCKS,
  sealCrc,
} from '../../formats/bml/structs.ts';
import { type Files, FULL, type SmallRepository, TIP } from './small-repository.ts';

export interface Damage {
  readonly title: string;
  make(): Files;
}

export interface Kind {
  readonly name: string;
  /**
   * What level 3 owes. 'all': it finds each one. 'effect': each one after which not everything reads as it was. 'none': a
   * forger has made the checksums right, and may change what nothing depends on; only wrong bytes are out of the question.
   */
  readonly owes: 'all' | 'effect' | 'none';
  readonly damages: readonly Damage[];
}

const NAMES = [FULL, TIP] as const;

/** The files, one of them changed in place. */
const changed = (files: Files, name: string, change: (bytes: Uint8Array) => void): Files => {
  const bytes = files[name]!.slice();
  change(bytes);
  return { ...files, [name]: bytes };
};

const flips = (files: Files, name: string, at: number, mask: number): Damage => ({
  title: `${name} at ${at}: ^ ${mask}`,
  make: () =>
    changed(files, name, bytes => {
      bytes[at]! ^= mask;
    }),
});

/** Offsets from the records on to the end, or of what lies in front of them, in both files. */
const offsets = (files: Files, part: 'front' | 'records'): { readonly name: string; readonly at: number }[] =>
  NAMES.flatMap(name => {
    const [from, to] = part === 'front' ? [0, FIRST_RECORD] : [FIRST_RECORD, files[name]!.length];
    return Array.from({ length: to - from }, (_, i) => ({ name, at: from + i }));
  });

/** One bit of every byte, another one from byte to byte. */
const everyByte = (files: Files, part: 'front' | 'records'): Damage[] =>
  offsets(files, part).map(({ name, at }) => flips(files, name, at, 1 << ((at * 5 + 3) % 8)));

/** Two other bits, and all at once, of the bytes that mean something: what is not zero, and all of every record. */
function moreBits(files: Files): Damage[] {
  const found: Damage[] = [];
  for (const name of NAMES) {
    const bytes = files[name]!;
    const inside = new Uint8Array(bytes.length);
    for (const { at, padded } of recordsOf(bytes)) inside.fill(1, at, at + padded);
    for (const [at, byte] of bytes.entries()) {
      if (byte === 0 && inside[at] === 0) continue;
      for (const mask of [1 << ((at * 5) % 8), 1 << ((at * 5 + 6) % 8), 255]) found.push(flips(files, name, at, mask));
    }
  }
  return found;
}

const everyCut = (files: Files, part: 'front' | 'records'): Damage[] =>
  offsets(files, part).map(({ name, at }) => ({
    title: `${name} cut at ${at}`,
    make: () => ({ ...files, [name]: files[name]!.subarray(0, at) }),
  }));

interface Placed extends RawRecord {
  readonly file: string;
}

const allRecords = (files: Files): Placed[] =>
  NAMES.flatMap(file => recordsOf(files[file]!).map(record => ({ ...record, file })));

const nameOf = ({ file, at, kind }: Placed): string => `${file} at ${at} (kind ${kind})`;

const bytesOf = (files: Files, { file, at, padded }: Placed): Uint8Array => files[file]!.subarray(at, at + padded);

/** Each of `places` has the new bytes; where these have another length, what follows moves. */
function replaced(files: Files, places: readonly { readonly place: Placed; readonly bytes: Uint8Array }[]): Files {
  const out: Record<string, Uint8Array> = { ...files };
  for (const name of NAMES) {
    const parts: Uint8Array[] = [];
    let from = 0;
    const mine = places.filter(({ place }) => place.file === name).sort((a, b) => a.place.at - b.place.at);
    for (const { place, bytes } of mine) {
      parts.push(files[name]!.subarray(from, place.at), bytes);
      from = place.at + place.padded;
    }
    if (mine.length > 0) out[name] = Buffer.concat([...parts, files[name]!.subarray(from)]);
  }
  return out;
}

const pairs = function* <T>(all: readonly T[]): Generator<readonly [T, T]> {
  for (const [i, a] of all.entries()) for (const b of all.slice(i + 1)) yield [a, b];
};

/** Without those that change nothing: there are records that are the same but for their place. */
const real = (files: Files, damages: readonly Damage[]): Damage[] =>
  damages.filter(({ make }) => {
    const now = make();
    return NAMES.some(name => Buffer.compare(now[name]!, files[name]!) !== 0);
  });

/** Every two in both orders. */
const orders = function* <T>(all: readonly T[]): Generator<readonly [T, T]> {
  for (const [a, b] of pairs(all)) {
    yield [a, b];
    yield [b, a];
  }
};

const swaps = (files: Files): Damage[] =>
  Array.from(pairs(allRecords(files)), ([a, b]) => ({
    title: `${nameOf(a)} and ${nameOf(b)} swapped`,
    make: () =>
      replaced(files, [
        { place: a, bytes: bytesOf(files, b) },
        { place: b, bytes: bytesOf(files, a) },
      ]),
  }));

const copies = (files: Files): Damage[] =>
  Array.from(orders(allRecords(files)), ([from, to]) => ({
    title: `${nameOf(from)} in the place of ${nameOf(to)}`,
    make: () => replaced(files, [{ place: to, bytes: bytesOf(files, from) }]),
  }));

/** The record of block 0 as it was before the writer wrote the block again: sound, and out of date. */
function olderVersion({ files, older }: SmallRepository): Damage[] {
  const place = allRecords(files).find(record => {
    const bytes = bytesOf(files, record);
    return record.file === FULL && record.kind === 1 && bytes[16] === 0;
  })!;
  return [{ title: `an older record at ${place.at}`, make: () => replaced(files, [{ place, bytes: older }]) }];
}

function wholeFiles({ files, before }: SmallRepository, other: Files): Damage[] {
  const full = files[FULL]!;
  const tip = files[TIP]!;
  const list: readonly (readonly [string, Files])[] = [
    ['the names of both exchanged', { [FULL]: tip, [TIP]: full }],
    ['the tip twice', { [FULL]: tip, [TIP]: tip }],
    ['no full', { [TIP]: tip }],
    ['the full of another set', { [FULL]: other[FULL]!, [TIP]: tip }],
    ['the tip of another set', { [FULL]: full, [TIP]: other[TIP]! }],
    ['the tip as it was before the consolidation', { [FULL]: full, [TIP]: before }],
    ['an empty full', { [FULL]: new Uint8Array(0), [TIP]: tip }],
    ['an empty tip', { [FULL]: full, [TIP]: new Uint8Array(0) }],
  ];
  return list.map(([title, now]) => ({ title, make: () => now }));
}

/** One bit of each byte of every record, with its checksums made right. */
const forgedRecords = (files: Files): Damage[] =>
  allRecords(files).flatMap(({ file, at, length }) =>
    Array.from({ length }, (_, i) => ({
      title: `${file} at ${at + i}: a bit, and the checksums`,
      make: () =>
        changed(files, file, bytes => {
          bytes[at + i]! ^= 1 << ((i * 3) % 8);
          // Neither the length nor the flags may lead past the record, or its checksum would cover what is no part of it.
          sealChecksums(bytes.subarray(at, at + length));
          sealSum(bytes);
        }),
    })),
  );

/** The body of one record under the header of another one of its kind. A forger makes the file's record sum right, too. */
const forgedSwaps = (files: Files): Damage[] =>
  [...orders(allRecords(files))]
    .filter(([head, body]) => head.kind === body.kind)
    .map(([head, body]) => ({
      title: `the body of ${nameOf(body)} under the header of ${nameOf(head)}`,
      make: () => {
        const record = bytesOf(files, body).slice();
        const header = bytesOf(files, head);
        // All but the lengths and the codec, which go with the body.
        for (let i = 6; i < 32; i++) record[i] = header[i]!;
        sealChecksums(record.subarray(0, body.length));
        return changed(replaced(files, [{ place: head, bytes: record }]), head.file, sealSum);
      },
    }));

/** Pages and areas that end with their own checksum. */
function pagesOf(bytes: Uint8Array): { readonly at: number; readonly length: number }[] {
  const pages: { at: number; length: number }[] = [...SUPERBLOCKS, ...SLOTS].map(at => ({ at, length: PAGE }));
  for (const at of KEY_AREAS) pages.push({ at, length: KEY_AREA_SIZE });
  const end = recordsOf(bytes).at(-1)!;
  for (let at = Math.ceil((end.at + end.padded) / PAGE) * PAGE; at < bytes.length; at += PAGE) {
    pages.push({ at, length: PAGE });
  }
  return pages.filter(
    ({ at, length }) => at >= FIRST_RECORD || bytes.subarray(at, at + length).some(byte => byte !== 0),
  );
}

/** One bit of each byte that is not zero in every page, with its checksum made right. */
function forgedPages(files: Files): Damage[] {
  const found: Damage[] = [];
  for (const name of NAMES) {
    for (const { at, length } of pagesOf(files[name]!)) {
      const page = files[name]!.subarray(at, at + length);
      if (!crcFits(page)) throw new Error(`${name}: no page at ${at}`);
      for (let i = 0; i < length - 4; i++) {
        if (page[i] === 0) continue;
        found.push({
          title: `${name} at ${at + i}: a bit, and the checksum`,
          make: () =>
            changed(files, name, bytes => {
              bytes[at + i]! ^= 1 << ((i * 3) % 8);
              sealCrc(bytes.subarray(at, at + length));
            }),
        });
      }
    }
  }
  return found;
}

/** `other`: a repository of another set. */
export function kindsOf(repository: SmallRepository, other: Files): readonly Kind[] {
  const { files } = repository;
  return [
    { name: 'a bit of every byte from the records on', owes: 'all', damages: everyByte(files, 'records') },
    { name: 'a bit of every byte in front of them', owes: 'all', damages: everyByte(files, 'front') },
    { name: 'three more patterns in every byte that is used', owes: 'all', damages: moreBits(files) },
    { name: 'cut at every byte from the records on', owes: 'all', damages: everyCut(files, 'records') },
    { name: 'cut at every byte in front of them', owes: 'all', damages: everyCut(files, 'front') },
    { name: 'every two records swapped', owes: 'all', damages: real(files, swaps(files)) },
    { name: 'every record in the place of every other', owes: 'all', damages: real(files, copies(files)) },
    { name: 'an older record of a block in its place', owes: 'all', damages: olderVersion(repository) },
    { name: 'whole files', owes: 'effect', damages: wholeFiles(repository, other) },
    { name: 'every byte of records, checksums right', owes: 'none', damages: forgedRecords(files) },
    { name: 'bodies under other headers, checksums right', owes: 'none', damages: forgedSwaps(files) },
    { name: 'every byte of pages, checksum right', owes: 'none', damages: forgedPages(files) },
  ];
}
