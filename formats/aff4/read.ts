import { createHash } from 'node:crypto';
import type { Adapter, Confidence, Image, ImageDisk, ImagePoint, LayerId, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type ImagedDisk, imagesIn, notesOn, openDisk, timeOf } from './disk.ts';
import { LocalHeader } from './structs.ts';
import { verifyVolumes } from './verify.ts';
import { factOf, openVolume, type Volume } from './volume.ts';
import { Volumes } from './volumes.ts';
import { commentAt, endIn } from './zip.ts';

const FIRST = 'container.description';

/** Of one image in several volumes, the first one by name stands for all. */
function standsFor(volumes: Volumes, images: readonly string[]): boolean {
  const others = volumes.all
    .slice(1)
    .filter(({ graph }) => images.some(image => factOf(graph, image, 'dataStream') !== null));
  return others.every(({ file }) => volumes.first.file < file);
}

function identityOf(volumes: Volumes): string {
  const hash = createHash('sha256');
  for (const { name, source, description } of volumes.all) {
    hash.update(`${name} ${source.size} ${description.length}\n`).update(description);
  }
  return `aff4:${hash.digest('hex')}`;
}

/** Parts of the disk that are not what was on it. */
function warningsOf(disks: readonly ImagedDisk[]): readonly string[] {
  const targets = disks.flatMap(disk => disk.targets);
  const names = (kind: string): boolean => targets.some(target => target.kind === kind);
  const unknown = targets.some(target => target.kind === 'pattern' && target.name === 'UnknownData');
  return [
    ...(names('lost') ? ['parts of the disk could not be read when the image was made: reading them fails'] : []),
    ...(unknown ? ['parts of the disk were left out of the image: they read as "UNKNOWN" again and again'] : []),
  ];
}

/** Disks as far as they can be opened, and why the first other one cannot. */
async function openDisks(volumes: Volumes, images: readonly string[]) {
  const { file, name } = volumes.first;
  const opened: ImagedDisk[] = [];
  let problem: ImageError | null = null;
  for (const [i, image] of images.entries()) {
    try {
      opened.push(await openDisk(volumes, image, `aff4:${name}/${i}` as LayerId));
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      problem ??= error;
    }
  }
  if (images.length === 0) problem = new ImageError('unsupported', 'the volume holds no image of a disk', { file });
  return { opened, problem };
}

async function imageOf(volumes: Volumes): Promise<Image> {
  const { first } = volumes;
  const images = imagesIn(first);
  const { opened, problem } = await openDisks(volumes, images);
  const common = { adapter: 'aff4', name: first.file, encrypted: false };
  if (!standsFor(volumes, images)) {
    await volumes[Symbol.asyncDispose]();
    return { ...common, points: [], warnings: [], async [Symbol.asyncDispose]() {} };
  }
  const disks = opened.map(
    ({ size, sectorSize, layer }, i): ImageDisk => ({
      name: `disk${i}`,
      size,
      sectorSize,
      stored: volumes.stored,
      layer: problem === null ? layer : null,
    }),
  );
  const point: ImagePoint = {
    id: `aff4:${first.name}` as LayerId,
    parent: null,
    set: null,
    time: timeOf(first, images[0] ?? first.name),
    type: 'full',
    disks,
    identity: identityOf(volumes),
    problem,
  };
  return {
    ...common,
    points: [point],
    warnings: warningsOf(opened),
    notes: images.flatMap(image => notesOn(first, image)),
    verify: run => verifyVolumes(volumes, opened, problem, run),
    [Symbol.asyncDispose]: () => volumes[Symbol.asyncDispose](),
  };
}

async function openImage(file: string, store: Store): Promise<Image> {
  const first: Volume = await openVolume(store, file);
  const volumes = new Volumes(store, first);
  try {
    return await imageOf(volumes);
  } catch (error) {
    await volumes[Symbol.asyncDispose]();
    throw error;
  }
}

/** By the first member, or by the name of a volume in the archive's comment. */
function probe(head: Uint8Array, tail: Uint8Array): Confidence {
  const text = (from: number, to: number): string => Buffer.from(head.subarray(from, to)).toString('latin1');
  if (text(0, 4) !== 'PK\x03\x04') return 'no';
  if (text(LocalHeader.size, LocalHeader.size + FIRST.length) === FIRST) return 'certain';
  const end = endIn(tail);
  return end >= 0 && commentAt(tail, end).startsWith('aff4://') ? 'certain' : 'no';
}

/** Reads images of disks in AFF4 volumes, whole or striped over several; the first volume stands for all. */
export const aff4: Adapter = {
  name: 'aff4',
  title: 'Advanced Forensic Format 4',
  extensions: ['.aff4'],
  supports: { differencing: false, encryption: false, compression: true, write: false },
  probe,
  open: openImage,
};
