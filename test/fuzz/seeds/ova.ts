import { createHash } from 'node:crypto';
import { descriptor, hosted } from '../../../formats/vmdk/fixtures.ts';
import { ova } from '../../../formats/vmdk/index.ts';
import { tarMember } from '../../../formats/xva/fixtures.ts';
import { repairTarSums } from '../tar-sums.ts';
import { adapterTarget, type Seed } from '../target.ts';

const SCHEMA = 'http://schemas.dmtf.org/ovf/envelope/1';
const STREAM = 'http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized';
const LONG_NAME = `machine-${'x'.repeat(110)}-disk1.vmdk`;

const disk = (value: number, stream: boolean): Uint8Array =>
  hosted({
    grains: [new Uint8Array(4096).fill(value), null, new Uint8Array(4096).fill(value + 1)],
    grainSize: 4096,
    stream,
    text: descriptor(['RW 24 SPARSE "x"']),
  });

/** A machine with a disk for each name, and one that is empty. */
const envelope = (names: readonly string[]): Buffer =>
  Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="${SCHEMA}" xmlns="${SCHEMA}">
  <References>${names.map((name, i) => `<File ovf:id="f${i}" ovf:href='${name}'/>`).join('')}</References>
  <DiskSection><Info>Disks &gt; all</Info>
    ${names.map((_, i) => `<Disk ovf:diskId="d${i}" ovf:fileRef="f${i}" ovf:capacity="12" ovf:capacityAllocationUnits="byte * 2^10" ovf:format="${STREAM}"/>`).join('\n')}
    <Disk ovf:diskId="empty" ovf:capacity="1" ovf:capacityAllocationUnits="MegaBytes"/>
  </DiskSection>
  <VirtualSystem ovf:id="vm"><Info><![CDATA[<Name>no</Name>]]></Info><Name>Web &amp; mail</Name></VirtualSystem>
</ovf:Envelope>`);

const manifest = (members: readonly (readonly [string, Uint8Array])[], algorithm: string): Buffer =>
  Buffer.from(
    members
      .map(
        ([name, data]) => `${algorithm.toUpperCase()}(${name})= ${createHash(algorithm).update(data).digest('hex')}\n`,
      )
      .join(''),
  );

const pax = (name: string): Buffer => {
  const rest = ` path=${name}\n`;
  return Buffer.from(`${rest.length + 3}${rest}`);
};

/** `long`: how the archive says a name that does not fit into a header. */
function archive(algorithm: string, long: 'gnu' | 'pax' | null): Seed {
  const names = long === null ? ['one.vmdk', 'two.vmdk'] : [LONG_NAME];
  const ovf = envelope(names);
  const disks = names.map((name, i) => [name, disk(1 + 2 * i, i === 0)] as const);
  const extra = (name: string): Buffer[] =>
    long === 'gnu'
      ? [tarMember('././@LongLink', Buffer.from(`${name}\0`), 'L')]
      : long === 'pax'
        ? [tarMember('PaxHeaders/x', pax(name), 'x')]
        : [];
  const members = [
    tarMember('m.ovf', ovf),
    tarMember('m.mf', manifest([['m.ovf', ovf], ...disks], algorithm)),
    ...disks.flatMap(([name, data]) => [...extra(name), tarMember(name.slice(0, 100), data)]),
    Buffer.alloc(1024),
  ];
  return {
    title: `${algorithm}, names ${long ?? 'in the headers'}`,
    name: 'm.ova',
    files: { 'm.ova': new Uint8Array(Buffer.concat(members)) },
  };
}

export const target = adapterTarget(
  ova,
  [],
  async () => [archive('sha1', null), archive('sha256', 'gnu'), archive('sha256', 'pax')],
  repairTarSums,
);
