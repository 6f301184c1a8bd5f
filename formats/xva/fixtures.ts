/** Small archives for tests, as xapi and Xen Orchestra write them. */
import { createHash } from 'node:crypto';
import { xxhash64 } from './xxhash64.ts';

const BLOCK = 1_048_576;

export interface DiskSpec {
  readonly ref: string;
  readonly content: Uint8Array;
  /** `userdevice` of the device that holds it. */
  readonly device: string;
}

export interface XvaSpec {
  readonly disks: readonly DiskSpec[];
  readonly sum: 'none' | 'sha1' | 'xxhash';
  readonly name?: string;
  /** Left out of the description. */
  readonly sizes?: boolean;
  /** The disks' blocks take turns. */
  readonly mixed?: boolean;
}

export function tarMember(name: string, data: Uint8Array, type = '0'): Buffer {
  const head = Buffer.alloc(512);
  head.write(name, 0, 'latin1');
  head.write('0000644\0', 100, 'latin1');
  head.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  head.write(`        ${type}`, 148, 'latin1');
  head.write('ustar\x0000', 257, 'latin1');
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return Buffer.concat([head, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
}

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
const value = (content: string): string => `<value>${content}</value>`;
const struct = (members: Readonly<Record<string, string>>): string =>
  value(
    `<struct>${Object.entries(members)
      .map(([name, content]) => `<member><name>${name}</name>${content}</member>`)
      .join('')}</struct>`,
  );
const text = (content: string): string => value(escaped(content));
const object = (type: string, id: string, record: Readonly<Record<string, string>>): string =>
  struct({ class: text(type), id: text(id), snapshot: struct(record) });

export function description({ disks, name = 'a & b', sizes = true }: Omit<XvaSpec, 'sum'>): string {
  const machine = { name_label: text(name), is_a_snapshot: value('<boolean>0</boolean>') };
  const objects = [
    object('VM', 'Ref:0', {
      ...machine,
      snapshot_time: value('<dateTime.iso8601>20261120T09:08:07Z</dateTime.iso8601>'),
    }),
    object('VBD', 'Ref:90', { VM: text('Ref:0'), VDI: text('Ref:91'), userdevice: text('3'), type: text('CD') }),
    ...disks.flatMap(({ ref, content, device }, i) => [
      object('VBD', `Ref:${100 + i}`, {
        VM: text('Ref:0'),
        VDI: text(ref),
        userdevice: text(device),
        type: text('Disk'),
      }),
      object('VDI', ref, { type: text('user'), ...(sizes ? { virtual_size: text(String(content.length)) } : {}) }),
    ]),
  ];
  const list = value(`<array><data>${objects.join('')}</data></array>`);
  return `<?xml version='1.0'?>\n${struct({ version: struct({ hostname: text('h') }), objects: list })}`;
}

/** Blocks of a disk that a writer puts into the archive: the first, the last, and those that hold something. */
function* blocksOf({ ref, content }: DiskSpec, sum: XvaSpec['sum']): Generator<Buffer> {
  const count = Math.ceil(content.length / BLOCK);
  for (let number = 0; number < count; number++) {
    const data = Buffer.alloc(BLOCK);
    data.set(content.subarray(number * BLOCK, (number + 1) * BLOCK));
    if (number > 0 && number < count - 1 && data.every(byte => byte === 0)) continue;
    const name = `${ref}/${String(number).padStart(8, '0')}`;
    const members = [tarMember(name, data)];
    if (sum === 'sha1') {
      members.push(tarMember(`${name}.checksum`, Buffer.from(createHash('sha1').update(data).digest('hex'))));
    } else if (sum === 'xxhash') {
      const hex = xxhash64(data).toString(16).padStart(16, '0').toUpperCase();
      members.push(tarMember(`${name}.xxhash`, Buffer.from(hex)));
    }
    yield Buffer.concat(members);
  }
}

export function xvaFile(spec: XvaSpec): Buffer {
  const lists = spec.disks.map(disk => [...blocksOf(disk, spec.sum)]);
  const members: Buffer[] = [tarMember('ova.xml', Buffer.from(description(spec)))];
  if (spec.mixed === true) {
    for (let i = 0; lists.some(list => i < list.length); i++) {
      for (const list of lists) if (i < list.length) members.push(list[i]!);
    }
  } else members.push(...lists.flat());
  return Buffer.concat([...members, Buffer.alloc(1024)]);
}
