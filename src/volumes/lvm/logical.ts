/**
 * Logical volumes, put together from physical ones by the text of their group. Sources: lvm2, "Metadata format";
 * lvmraid(7); Linux kernel documentation, admin-guide/device-mapper.
 */
import { ImageError } from '../../base/errors.ts';
import { composedStretch, joinedMapping, type Mapped, type Mapping, type Part } from '../composed.ts';
import { type Leg, raidMapping } from '../raid.ts';
import type { Stretch } from '../stretch.ts';
import type { GroupText, PhysicalVolume } from './physical.ts';
import { untrustedLegs } from './raid-metadata.ts';
import type { Section } from './text.ts';

export interface LogicalVolumes {
  readonly stretches: readonly Stretch[];
  readonly notes: readonly string[];
}

const SECTOR = 512;
const DEEPEST = 16;
const MOST_SEGMENTS = 1_048_576;
const MOST_STRIPES = 1024;

const RAID_LAYOUTS: ReadonlyMap<string, readonly [level: number, layout: number]> = new Map([
  ['raid0', [0, 2]],
  ['raid0_meta', [0, 2]],
  ['raid1', [1, 0]],
  ['raid5', [5, 2]],
  ['raid5_la', [5, 0]],
  ['raid5_ra', [5, 1]],
  ['raid5_ls', [5, 2]],
  ['raid5_rs', [5, 3]],
  ['raid5_n', [5, 5]],
  ['raid10', [10, 0x102]],
  ['raid10_near', [10, 0x102]],
]);
/** Parts of other volumes, which are nothing by themselves. */
const INNER = new Set(['thin-pool', 'cache-pool', 'vdo-pool', 'snapshot']);

const bare = (uuid: string): string => uuid.replaceAll('-', '');

class Group {
  readonly #text: GroupText;
  readonly #physical: ReadonlyMap<string, PhysicalVolume>;
  readonly #extent: number;
  readonly #made = new Map<string, Promise<Stretch>>();
  /** Volumes that snapshots and thin volumes are made on; null: not asked for yet. */
  #origins: ReadonlySet<string> | null = null;
  readonly #sectorSize: 512 | 4096;

  constructor(text: GroupText, physical: ReadonlyMap<string, PhysicalVolume>) {
    this.#text = text;
    this.#physical = physical;
    this.#extent = text.section.number('extent_size') * SECTOR;
    this.#sectorSize = [...physical.values()][0]!.stretch.disk.sectorSize;
    if (this.#extent === 0) throw this.#corrupt('extents have no size');
  }

  #corrupt(what: string): ImageError {
    return new ImageError('corrupt', `LVM metadata: ${what}`, { file: `lvm ${this.#text.name}` });
  }

  #unsupported(what: string): ImageError {
    return new ImageError('unsupported', what, { file: `lvm ${this.#text.name}` });
  }

  #volume(name: string): Section {
    return this.#text.section.section('logical_volumes').section(name);
  }

  /** Names and segments of the volumes that a user sees. */
  visible(): readonly { readonly name: string; readonly types: readonly string[] }[] {
    const volumes = this.#text.section.sections.get('logical_volumes');
    return [...(volumes?.sections ?? [])]
      .filter(([, volume]) => volume.words('status').includes('VISIBLE'))
      .map(([name, volume]) => ({ name, types: [...volume.sections.values()].map(segment => segment.text('type')) }));
  }

  /** Volumes that hold the differences of snapshots. */
  snapshots(): ReadonlySet<string> {
    return this.#namedBy('cow_store', 'merging_store');
  }

  /** What the segments of all volumes have under these keys. */
  #namedBy(...keys: readonly string[]): ReadonlySet<string> {
    const found = new Set<string>();
    for (const volume of this.#text.section.sections.get('logical_volumes')?.sections.values() ?? []) {
      for (const segment of volume.sections.values()) {
        for (const key of keys) if (segment.values.has(key)) found.add(segment.text(key));
      }
    }
    return found;
  }

  /** Physical volumes that are not there, by the names that the group gives them. */
  missing(): readonly string[] {
    return [...this.#text.section.section('physical_volumes').sections]
      .filter(([, its]) => !this.#physical.has(bare(its.text('id'))))
      .map(([name, its]) => `${name} (${its.text('id')})`);
  }

  /** One volume as a stretch; parts of parts are put together first. */
  stretch(name: string, depth = 0): Promise<Stretch> {
    const made = this.#made.get(name);
    if (made !== undefined) return made;
    if (depth > DEEPEST) throw this.#corrupt(`${name} is a part of itself`);
    const making = this.#put(name, depth);
    this.#made.set(name, making);
    return making;
  }

  async #put(name: string, depth: number): Promise<Stretch> {
    const volume = this.#volume(name);
    const count = volume.number('segment_count');
    if (count > MOST_SEGMENTS) throw this.#corrupt(`${name} has ${count} segments`);
    const mappings: Mapping[] = [];
    let next = 0;
    for (let i = 1; i <= count; i++) {
      const segment = volume.section(`segment${i}`);
      if (segment.number('start_extent') !== next) throw this.#corrupt(`${name} has a gap before segment ${i}`);
      next += segment.number('extent_count');
      mappings.push(await this.#segment(name, segment, depth + 1));
    }
    const joined = joinedMapping(mappings);
    this.#origins ??= this.#namedBy('origin', 'external_origin');
    // A snapshot needs what its origin has given up since.
    const mapping = this.#origins.has(name) ? shared(joined) : joined;
    if (!(mapping.size > 0 && Number.isSafeInteger(mapping.size))) throw this.#corrupt(`${name} has no sound size`);
    const its = `lvm ${this.#text.name}/${name}`;
    const folder = `lvm-${this.#text.name}-${name}`;
    return composedStretch({ its, folder, sectorSize: this.#sectorSize, mapping });
  }

  /** A physical or logical volume from an extent on; null: it is not there. */
  async #area(name: string, extent: number, depth: number): Promise<Part | null> {
    const physical = this.#text.section.section('physical_volumes').sections.get(name);
    if (physical === undefined) {
      const inner = await this.stretch(name, depth);
      return { stretch: inner, at: extent * this.#extent };
    }
    const found = this.#physical.get(bare(physical.text('id')));
    const at = physical.number('pe_start') * SECTOR + extent * this.#extent;
    return found === undefined ? null : { stretch: found.stretch, at };
  }

  async #segment(name: string, segment: Section, depth: number): Promise<Mapping> {
    const type = segment.text('type').replace(/\+.*$/s, '');
    const size = segment.number('extent_count') * this.#extent;
    if (segment.values.has('data_offset')) throw this.#unsupported(`${name} is being reshaped`);
    if (type === 'striped' || type === 'linear') return this.#striped(name, segment, size, depth);
    if (type === 'mirror') {
      // The first one is complete whatever the log says.
      const [first] = segment.pairs('mirrors');
      if (first === undefined) throw this.#corrupt(`${name} has no legs`);
      return shared(inLine(await this.#area(first[0], first[1], depth), size));
    }
    if (type === 'zero') return { size, at: (_at, length) => ({ kind: 'zero', length }) };
    const raid = RAID_LAYOUTS.get(type);
    if (raid !== undefined) return this.#raid(name, segment, raid, size, depth);
    throw this.#unsupported(`${name} has segments of type ${JSON.stringify(type)}, which are not supported`);
  }

  async #striped(name: string, segment: Section, size: number, depth: number): Promise<Mapping> {
    const pairs = segment.pairs('stripes');
    if (pairs.length < 1 || pairs.length > MOST_STRIPES) throw this.#corrupt(`${name} has ${pairs.length} stripes`);
    const areas = await Promise.all(pairs.map(([its, extent]) => this.#area(its, extent, depth)));
    if (areas.length === 1) return inLine(areas[0]!, size);
    const chunk = segment.number('stripe_size') * SECTOR;
    if (chunk === 0 || size % (chunk * areas.length) !== 0)
      throw this.#corrupt(`${name} has stripes of ${chunk} bytes`);
    return {
      size,
      at(at, limit) {
        const number = Math.floor(at / chunk);
        const within = at % chunk;
        const area = areas[number % areas.length]!;
        return part(area, Math.floor(number / areas.length) * chunk + within, Math.min(limit, chunk - within));
      },
    };
  }

  async #raid(
    name: string,
    segment: Section,
    [level, layout]: readonly [number, number],
    size: number,
    depth: number,
  ): Promise<Mapping> {
    const key = segment.values.has('raid0_lvs') ? 'raid0_lvs' : 'raids';
    const names = segment.list(key).map(its => {
      if (typeof its !== 'string') throw this.#corrupt(`${name} has parts without a name`);
      return its;
    });
    // With metadata volumes, each one stands before its data.
    const paired = key === 'raids' && level !== 0;
    const data = names.filter((_, i) => !paired || i % 2 === 1);
    const untrusted = paired
      ? await untrustedLegs(await Promise.all(names.filter((_, i) => i % 2 === 0).map(its => this.#whole(its, depth))))
      : new Set<number>();
    const legs = await Promise.all(
      data.map(async (its, i): Promise<Leg | null> => {
        const stretch = untrusted.has(i) ? null : await this.#whole(its, depth);
        return stretch && { stretch, at: 0, size: stretch.size };
      }),
    );
    const chunk = segment.number('stripe_size', 0) * SECTOR;
    const legSize = Math.max(0, ...legs.map(leg => leg?.size ?? 0));
    const mapping = raidMapping({ its: `lvm ${this.#text.name}/${name}`, level, layout, chunk, legs, legSize });
    if (mapping.size < size) throw this.#corrupt(`${name} is longer than its parts`);
    return { size, at: (at, limit) => mapping.at(at, limit) };
  }

  /** A part of an array; null where any physical volume of it is missing. */
  async #whole(name: string, depth: number): Promise<Stretch | null> {
    const missing = new Set(this.missing().map(its => its.split(' ')[0]!));
    const segments = [...this.#volume(name).sections.values()];
    const lost = segments.some(
      its => its.values.has('stripes') && its.pairs('stripes').some(([pv]) => missing.has(pv)),
    );
    return lost ? null : this.stretch(name, depth);
  }
}

function part(area: Part | null, offset: number, length: number): Mapped {
  const ways = area === null ? [] : [{ stretch: area.stretch, at: area.at + offset }];
  return { kind: 'ways', length, ways, shared: false };
}

const inLine = (area: Part | null, size: number): Mapping => ({ size, at: (at, limit) => part(area, at, limit) });

const shared = ({ size, at }: Mapping): Mapping => ({
  size,
  at(from, limit) {
    const mapped = at(from, limit);
    return mapped.kind === 'ways' ? { ...mapped, shared: true } : mapped;
  },
});

async function volumesOf(group: Group, { name }: GroupText, found: { stretches: Stretch[]; notes: string[] }) {
  for (const missing of group.missing()) found.notes.push(`lvm ${name}: the physical volume ${missing} is missing`);
  const snapshots = group.snapshots();
  for (const { name: its, types } of group.visible()) {
    if (types.some(type => INNER.has(type))) continue;
    if (snapshots.has(its)) {
      found.notes.push(`lvm ${name}/${its} is a snapshot, which is not shown`);
      continue;
    }
    try {
      found.stretches.push(await group.stretch(its));
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      found.notes.push(`lvm ${name}/${its} cannot be read: ${error.message}`);
    }
  }
}

/** Every volume of the groups that these physical volumes belong to. */
export async function logicalVolumes(physical: readonly PhysicalVolume[]): Promise<LogicalVolumes> {
  const found = { stretches: [] as Stretch[], notes: [] as string[] };
  const byId = new Map<string, PhysicalVolume>();
  const texts = new Map<string, GroupText>();
  for (const its of physical) {
    if (byId.has(its.uuid)) found.notes.push(`${its.stretch.its} is the same physical volume as another one: left out`);
    else byId.set(its.uuid, its);
    found.notes.push(...its.warnings.map(warning => `${its.stretch.its}: ${warning}`));
    for (const text of its.groups) {
      if ((texts.get(text.id)?.sequence ?? -1) < text.sequence) texts.set(text.id, text);
    }
  }
  for (const text of texts.values()) {
    try {
      await volumesOf(new Group(text, byId), text, found);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      found.notes.push(`lvm ${text.name} cannot be read: ${error.message}`);
    }
  }
  return found;
}
