/** An image in a volume: its stream, what that leads to, what is told about the disk. */
import type { Bytes, Layer, LayerId } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { mappedLayer } from './layer.ts';
import { readMap, wholeStream } from './map.ts';
import { ImageStream } from './stream.ts';
import { symbolicTarget, symbolOf, type Target } from './targets.ts';
import { RDF_TYPE } from './turtle.ts';
import { AFF4, factOf, factsOf, numberOf, type Volume } from './volume.ts';
import type { Volumes } from './volumes.ts';
import { corrupt, type Member, readMember } from './zip.ts';

const LONGEST_LIST: Bytes = 2 ** 20;
const MOST_TARGETS = 10_000;

const typesOf = ({ graph }: Volume, object: string): readonly string[] =>
  (graph.get(object)?.get(RDF_TYPE) ?? []).map(({ text }) => symbolOf(text) ?? text);

/** The objects that are images of disks, in the order of the description; files and memory are none. */
export function imagesIn(volume: Volume): readonly string[] {
  const found = [...volume.graph.keys()].filter(object => {
    const types = typesOf(volume, object);
    if (types.some(type => ['FileImage', 'FolderImage', 'LogicalAcquisitionTask'].includes(type))) return false;
    return types.some(type => ['DiskImage', 'ContiguousImage', 'Image'].includes(type));
  });
  return found.filter(object => factOf(volume.graph, object, 'dataStream') !== null);
}

export interface ImagedDisk {
  readonly image: string;
  readonly size: Bytes;
  readonly sectorSize: 512 | 4096;
  /** The map, where there is one, and the file that it lies in. */
  readonly map: { readonly name: string; readonly volume: Volume } | null;
  readonly targets: readonly Target[];
  readonly layer: Layer;
}

/** Targets by their names, each stream's chunks numbered behind the ones of the streams before it. */
class TargetList {
  readonly #volumes: Volumes;
  readonly #known = new Map<string, Target>();
  #units = 0;

  constructor(volumes: Volumes) {
    this.#volumes = volumes;
  }

  async of(name: string): Promise<Target> {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const target = symbolicTarget(name, this.#volumes.first.file) ?? (await this.#stream(name));
    this.#known.set(name, target);
    return target;
  }

  async #stream(name: string): Promise<Target> {
    const volume = await this.#volumes.holding(name);
    const types = typesOf(volume, name);
    if (!types.includes('ImageStream')) {
      const message = `${name} is a stream of a kind that is not known (${types.join(', ') || 'none is told'})`;
      throw new ImageError('unsupported', message, { file: volume.file });
    }
    const stream = new ImageStream(volume, name);
    const firstUnit = this.#units;
    this.#units += stream.chunks;
    if (!Number.isSafeInteger(this.#units)) throw corrupt(`${name} has ${stream.size} bytes`, volume.file, 0, 'size');
    return { kind: 'stream', stream, firstUnit };
  }
}

async function targetNames(volume: Volume, map: string): Promise<readonly string[]> {
  const list = volume.member(`${map}/idx`);
  if (list === null) throw corrupt(`the map ${map} has no list of its streams`, volume.file, 0);
  const names = new TextDecoder().decode(await readMember(volume.archive, list, LONGEST_LIST)).split(/\r?\n/);
  while (names.at(-1) === '') names.pop();
  if (names.length <= MOST_TARGETS) return names;
  throw new ImageError('unsupported', `a map of ${names.length} streams`, { file: volume.file, at: list.headerAt });
}

function sizeOf(volume: Volume, image: string, stream: string): Bytes {
  const size = numberOf(volume, stream, 'size') ?? numberOf(volume, image, 'size');
  const whole = numberOf(volume, image, 'size') ?? size;
  if (size === null || size === 0) throw corrupt(`the image ${image} has no size`, volume.file, 0, 'size');
  if (whole === size) return size;
  throw corrupt(`the image has ${whole} bytes, its stream ${size}`, volume.file, 0, 'size');
}

function mapMember(volume: Volume, map: string): Member {
  const member = volume.member(`${map}/map`);
  if (member !== null) return member;
  throw corrupt(`the map ${map} is missing`, volume.file, 0);
}

/** 'broken-chain' where a volume with a part of it is missing, 'unsupported' for what cannot be read. */
export async function openDisk(volumes: Volumes, image: string, id: LayerId): Promise<ImagedDisk> {
  const { first } = volumes;
  const stream = factOf(first.graph, image, 'dataStream')!;
  const sectorSize = numberOf(first, image, 'blockSize') === 4096 ? 4096 : 512;
  const list = new TargetList(volumes);
  if (symbolOf(stream) !== null || !typesOf(first, stream).includes('Map')) {
    const target = await list.of(stream);
    const size = target.kind === 'stream' ? sizeOf(target.stream.volume, image, stream) : sizeOf(first, image, stream);
    const whole = wholeStream(size);
    const layer = mappedLayer({ id, size, targets: [target], gap: target, map: async () => whole });
    return { image, size, sectorSize, map: null, targets: [target], layer };
  }
  const volume = await volumes.holding(stream);
  const size = sizeOf(volume, image, stream);
  const member = mapMember(volume, stream);
  const targets: Target[] = [];
  for (const name of await targetNames(volume, stream)) targets.push(await list.of(name));
  const gap = await list.of(factOf(volume.graph, stream, 'mapGapDefaultStream') ?? `${AFF4}Zero`);
  const layer = mappedLayer({ id, size, targets, gap, map: () => readMap(volume, member, size, targets) });
  return { image, size, sectorSize, map: { name: stream, volume }, targets: [...targets, gap], layer };
}

/** Case, evidence and drive, as the examiner's tool names them; one line each. */
export function notesOn({ graph }: Volume, image: string): readonly string[] {
  const about = (type: string): string | undefined =>
    [...graph.keys()].find(
      object =>
        (graph.get(object)!.get(RDF_TYPE) ?? []).some(({ text }) => text === AFF4 + type) &&
        factsOf(graph, object, 'target').some(({ text }) => text === image),
    );
  const line = (label: string, object: string | undefined, properties: readonly string[]): readonly string[] => {
    if (object === undefined) return [];
    const told = properties.flatMap(property => factOf(graph, object, property) ?? []);
    return told.length === 0 ? [] : [`${label}: ${told.join(', ')}`];
  };
  return [
    ...line('case', about('CaseDetails'), ['caseName', 'caseDescription', 'examiner']),
    ...line('evidence', about('CaseNotes'), ['caseNumber', 'evidenceNumber']),
    ...line('drive', image, [
      'diskMake',
      'diskModel',
      'diskSerial',
      'diskFirmware',
      'diskInterfaceType',
      'diskDeviceName',
    ]),
    ...line('acquisition', image, ['acquisitionCompletionState']),
  ];
}

/** When the acquisition ended, began, or the file was made; null where nothing says. */
export function timeOf({ graph, name }: Volume, image: string): Date | null {
  const stamps = [...graph.keys()].filter(object =>
    factsOf(graph, object, 'target').some(({ text }) => text === image),
  );
  const told = [
    ...stamps.map(object => factOf(graph, object, 'endTime')),
    ...stamps.map(object => factOf(graph, object, 'startTime')),
    factOf(graph, name, 'creationTime'),
  ];
  for (const text of told) {
    const time = text === null ? Number.NaN : Date.parse(text);
    if (!Number.isNaN(time)) return new Date(time);
  }
  return null;
}
