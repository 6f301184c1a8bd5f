import { crc32 } from 'node:zlib';
import { type Compression, volumeFile } from '../../../formats/aff4/fixtures.ts';
import { aff4 } from '../../../formats/aff4/index.ts';
import type { DamagedFiles } from '../damage.ts';
import { adapterTarget, type Seed, seedContent } from '../target.ts';

const MEMBERS = 40;
const LONGEST = 65_536;
const CHUNK = 1024;
/** The records behind the directory: 56 and 20 bytes of zip64, and 22 with the volume's name and a zero behind them. */
const END = 56 + 20 + 22 + 44;
const STREAM = 'aff4://c215ba20-5648-4209-a793-1f918c723610';
const OTHER = 'aff4://3bf0bd14-1ef9-4185-8b0a-2c7d511b4d30';
const MAP = 'aff4://fcbfdce7-4488-4677-abf6-08bc931e195b/map0';
const IMAGE = 'aff4://cf853d0b-5589-4c7c-8358-2ca1572b87eb';
const VOLUME = 'aff4://685e15cc-d0fb-4dbc-ba47-48117fc77044';
const SECOND = 'aff4://51725cd9-3769-4be7-a8ab-94e3ea62bf9a';

/** The checksums of the members, as far as the directory leads to them. */
function repair(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    const end = Buffer.from(file.read(file.size - END, 56));
    if (end.length < 56 || end.readUInt32LE(0) !== 0x0606_4b50) continue;
    let at = Number(end.readBigUInt64LE(48));
    for (let n = 0; n < MEMBERS; n++) {
      const entry = Buffer.from(file.read(at, 46));
      if (entry.length < 46 || entry.readUInt32LE(0) !== 0x0201_4b50) break;
      const names = entry.readUInt16LE(28);
      const extra = Buffer.from(file.read(at + 46 + names, 28));
      if (extra.length < 28) break;
      const size = Number(extra.readBigUInt64LE(4));
      const header = Buffer.from(file.read(Number(extra.readBigUInt64LE(20)), 30));
      if (size <= LONGEST && header.length === 30) {
        const from = Number(extra.readBigUInt64LE(20)) + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
        const crc = Buffer.alloc(4);
        crc.writeUInt32LE(crc32(file.read(from, size)));
        file.write(at + 16, crc);
      }
      at += 46 + names + entry.readUInt16LE(30) + entry.readUInt16LE(32);
    }
  }
}

const content = seedContent(16_384);
const SIZE = 32_768;

const whole = (compression: Compression, hashes: readonly 'sha1'[]): Uint8Array =>
  volumeFile({
    name: VOLUME,
    image: IMAGE,
    size: SIZE,
    map: {
      name: MAP,
      targets: [STREAM, 'http://aff4.org/Schema#SymbolicStreamFF', 'http://aff4.org/Schema#UnreadableData'],
      ranges: [
        { start: 0, length: 10_240, targetAt: 0, target: 0 },
        { start: 10_240, length: 2048, targetAt: 0, target: 1 },
        { start: 16_384, length: 6144, targetAt: 10_240, target: 0 },
        { start: 24_576, length: 512, targetAt: 24_576, target: 2 },
      ],
    },
    streams: [{ name: STREAM, content, chunkSize: CHUNK, compression, hashes }],
  });

function striped(): Seed {
  const ranges = Array.from({ length: 16 }, (_, i) => ({
    start: i * 2048,
    length: 2048,
    targetAt: Math.floor(i / 2) * 2048,
    target: i % 2,
  }));
  const targets = [STREAM, OTHER];
  const common = { image: IMAGE, size: SIZE };
  return {
    title: 'striped',
    name: 'a_1.aff4',
    files: {
      'a_1.aff4': volumeFile({
        ...common,
        name: VOLUME,
        map: { name: MAP, targets, ranges },
        streams: [{ name: STREAM, content, chunkSize: CHUNK, hashes: [] }],
        elsewhere: [{ name: OTHER, volume: SECOND }],
      }),
      'a_2.aff4': volumeFile({
        ...common,
        name: SECOND,
        map: { name: `${MAP}2`, targets, ranges },
        streams: [{ name: OTHER, content, chunkSize: CHUNK, compression: 'lz4', hashes: [] }],
        elsewhere: [{ name: STREAM, volume: VOLUME }],
      }),
    },
  };
}

async function seeds(): Promise<readonly Seed[]> {
  const kinds: readonly Compression[] = ['snappy', 'lz4', 'deflate', 'none'];
  return [
    ...kinds.map(kind => ({ title: kind, name: 'a.aff4', files: { 'a.aff4': whole(kind, []) } })),
    { title: 'with digests', name: 'a.aff4', files: { 'a.aff4': whole('snappy', ['sha1']) } },
    {
      title: 'without a map',
      name: 'a.aff4',
      files: {
        'a.aff4': volumeFile({
          name: VOLUME,
          image: IMAGE,
          size: content.length,
          streams: [{ name: `${VOLUME}/stream`, content, hashes: [] }],
        }),
      },
    },
    striped(),
  ];
}

export const target = adapterTarget(aff4, [], seeds, repair);
