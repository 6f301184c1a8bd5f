/** `ova.xml`: the machine and its disks. xen-orchestra, @xen-orchestra/xva; xapi, ocaml/xapi/export.ml. */
import type { Bytes } from '../../src/base/contracts.ts';
import { parseValue, type Value } from './xmlrpc.ts';

export interface MachineDisk {
  /** What the members with its blocks are called: `Ref:7`. */
  readonly ref: string;
  /** null: not told. */
  readonly size: Bytes | null;
}

export interface Machine {
  readonly name: string | null;
  readonly snapshotTime: Date | null;
  /** In the order of their places in the machine; empty when the description lists none. */
  readonly disks: readonly MachineDisk[];
}

interface Thing {
  readonly type: string;
  readonly id: string;
  readonly record: ReadonlyMap<string, Value>;
}

const member = (value: Value | undefined, name: string): Value | undefined =>
  value instanceof Map ? value.get(name) : undefined;
const textOf = (value: Value | undefined): string | null => (typeof value === 'string' ? value : null);

function thingsOf(root: Value): readonly Thing[] {
  const objects = member(root, 'objects');
  if (!Array.isArray(objects)) return [];
  return (objects as readonly Value[]).flatMap(each => {
    const [type, id, record] = [textOf(member(each, 'class')), textOf(member(each, 'id')), member(each, 'snapshot')];
    return type === null || id === null || !(record instanceof Map) ? [] : [{ type, id, record }];
  });
}

function sizeOf(record: ReadonlyMap<string, Value>): Bytes | null {
  const size = Number(textOf(record.get('virtual_size')) ?? Number.NaN);
  return Number.isSafeInteger(size) && size > 0 ? size : null;
}

/** `20261120T10:00:00Z`; 1970 stands for none. */
export function compactTime(text: string): Date | null {
  const [, year, month, day, hour, minute, second] =
    /^(\d{4})(\d\d)(\d\d)T(\d\d):?(\d\d):?(\d\d)Z$/.exec(text)?.map(Number) ?? [];
  if (year === undefined || year <= 1970) return null;
  return new Date(Date.UTC(year, month! - 1, day, hour, minute, second));
}

/** Disks by the devices that hold them, in the order of their numbers; disks that no device holds come last. */
export function parseMachine(xml: string, file: string): Machine {
  const things = thingsOf(parseValue(xml, file));
  const machine =
    things.find(({ type, record }) => type === 'VM' && record.get('is_a_snapshot') !== '1') ??
    things.find(({ type }) => type === 'VM');
  const place = new Map<string, number>();
  for (const { type, record } of things) {
    const vdi = textOf(record.get('VDI'));
    if (type !== 'VBD' || vdi === null || textOf(record.get('type')) === 'CD') continue;
    if (machine !== undefined && textOf(record.get('VM')) !== machine.id) continue;
    place.set(vdi, Number(textOf(record.get('userdevice')) ?? 0));
  }
  const rank = ({ id }: Thing): number => place.get(id) ?? Number.MAX_SAFE_INTEGER;
  const disks = things.filter(({ type }) => type === 'VDI').toSorted((a, b) => rank(a) - rank(b));
  const name = textOf(machine?.record.get('name_label'));
  return {
    name: name === '' ? null : name,
    snapshotTime: compactTime(textOf(machine?.record.get('snapshot_time')) ?? ''),
    disks: disks.map(({ id, record }) => ({ ref: id, size: sizeOf(record) })),
  };
}
