/** One file of an image: an archive with a name of its own, its objects, its members. */
import type { ByteSource, Bytes, Store } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { type BevyTables, decoded, readMembers } from './members.ts';
import { type Graph, parseTurtle, type Value } from './turtle.ts';
import { type Archive, type Member, readArchive, readMember } from './zip.ts';

const LONGEST_TEXT: Bytes = 2 ** 20;
export const AFF4 = 'http://aff4.org/Schema#';
const BEFORE_THE_STANDARD = 'http://afflib.org/2009/aff4#';
const SCHEME = 'aff4://';

export interface Volume extends AsyncDisposable {
  readonly file: string;
  readonly source: ByteSource;
  readonly archive: Archive;
  /** `aff4://<uuid>`. */
  readonly name: string;
  readonly graph: Graph;
  /** As written, with the length and the checksums of every member: changes with the content. */
  readonly description: Uint8Array;
  member(object: string): Member | null;
  /** Of every member that is no bevy. */
  readonly members: ReadonlyMap<string, Member>;
  bevies(stream: string): BevyTables | null;
}

/** Where members of an object lie: below the volume's own name that name is left out. */
const pathOf = (volume: string, object: string): string =>
  decoded(object.startsWith(`${volume}/`) ? object.slice(volume.length + 1) : object);

const text = (raw: Uint8Array): string => new TextDecoder().decode(raw);

/** The name that the archive's comment or its first member gives; null when there is none. */
export async function volumeName(archive: Archive, first: Member | null): Promise<string | null> {
  if (archive.comment.startsWith(SCHEME)) return archive.comment.trim();
  if (first === null) return null;
  const name = text(await readMember(archive, first, 4096)).trim();
  return name.startsWith(SCHEME) ? name : null;
}

function checkVersion(raw: Uint8Array | null, file: string): void {
  const field = (name: string): string | undefined =>
    raw === null ? undefined : new RegExp(`^${name}=(\\d+)\\s*$`, 'm').exec(text(raw))?.[1];
  const [major, minor] = [field('major'), field('minor')];
  if (major === '1' && (minor === '0' || minor === '1')) return;
  const message = major === undefined ? 'images from before version 1.0 of the standard' : `version ${major}.${minor}`;
  throw new ImageError('unsupported', `${message} cannot be read`, { file, field: 'version.txt' });
}

async function readVolume(source: ByteSource, archive: Archive): Promise<Volume> {
  const file = source.name;
  const { named, bevies } = await readMembers(archive);
  const name = await volumeName(archive, named.get('container.description') ?? null);
  if (name === null) throw new ImageError('not-this-format', 'the archive is no AFF4 volume', { file });
  const read = async (member: string): Promise<Uint8Array | null> => {
    const found = named.get(member);
    return found === undefined ? null : readMember(archive, found, LONGEST_TEXT);
  };
  const turtle = await read('information.turtle');
  if (turtle === null) throw new ImageError('corrupt', 'information.turtle is missing', { file });
  const version = await read('version.txt');
  if (version === null && text(turtle).includes(BEFORE_THE_STANDARD)) checkVersion(null, file);
  checkVersion(version, file);
  return {
    file,
    source,
    archive,
    name,
    graph: parseTurtle(text(turtle), file),
    description: turtle,
    members: named,
    member: object => named.get(pathOf(name, object)) ?? null,
    bevies: stream => bevies.get(pathOf(name, stream)) ?? null,
    [Symbol.asyncDispose]: () => source[Symbol.asyncDispose](),
  };
}

export async function openVolume(store: Store, file: string): Promise<Volume> {
  const source = await store.open(file);
  try {
    return await readVolume(source, await readArchive(source));
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

// ── what the graph says about an object ──────────────────────────────────────

export const factsOf = (graph: Graph, object: string, property: string): readonly Value[] =>
  graph.get(object)?.get(AFF4 + property) ?? [];

export const factOf = (graph: Graph, object: string, property: string): string | null =>
  factsOf(graph, object, property)[0]?.text ?? null;

/** A count or size; null where it is not given. 'corrupt' for anything but a whole number below 2^53. */
export function numberOf({ graph, file }: Volume, object: string, property: string): number | null {
  const told = factOf(graph, object, property);
  if (told === null) return null;
  const number = /^\d{1,16}$/.test(told) ? Number(told) : Number.NaN;
  if (Number.isSafeInteger(number)) return number;
  throw new ImageError('corrupt', `${property} of ${object} is ${told.slice(0, 40)}`, { file, field: property });
}
