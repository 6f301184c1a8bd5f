/** What QEMU does to a view's file, done to the view: every byte must be there again, whoever asks. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { qcow2, qcow2Format } from '../../formats/qcow2/index.ts';
import { vhd, vhdFormat } from '../../formats/vhd/index.ts';
import { materialize, memoryDisk, sparseDisk } from '../../test/kit/disks.ts';
import { virtualStore } from '../../test/kit/format-checks.ts';
import { missing, qemuImg, qemuIo } from '../../test/kit/oracles.ts';
import { random } from '../../test/kit/random.ts';
import { openStack } from '../../test/kit/reference.ts';
import { scratch } from '../../test/kit/samples.ts';
import type { Disk, OpenFile } from '../base/contracts.ts';
import { diskPiece, virtualFile } from '../base/pieces.ts';
import { computedDisk, type Growth, openWritableView } from './writable.ts';

const MIB = 1_048_576;
const SIZE = 12 * MIB + 512;

/** A script of guest writes, zeros and discards at any sector. */
function script(seed: number): readonly string[] {
  const { below, pick } = random(seed);
  return Array.from({ length: 40 }, (_, i) => {
    const at = below(SIZE / 512 - 1) * 512;
    const length = Math.min(SIZE - at, 512 * (1 + below(pick([4, 300, 2000]))));
    return `${pick([`write -P ${1 + i}`, `write -P ${1 + i}`, 'write -z', 'write -z -u', 'discard'])} ${at} ${length}`;
  });
}

/** Does to the view what turned one file into the other, a sector at a time or many. */
async function replay(view: OpenFile, before: Uint8Array, after: Uint8Array): Promise<void> {
  const sector = (content: Uint8Array, at: number): Uint8Array => content.subarray(at, at + 512);
  for (let at = 0; at < after.length; ) {
    let end = at;
    while (end < after.length && Buffer.compare(sector(before, end), sector(after, end)) !== 0) end += 512;
    if (end > at) await view.write!(after.subarray(at, Math.min(end, after.length)), at);
    at = end + 512;
  }
}

/** The file as it reads now, as a disk that its own adapter can be opened on. */
const asDisk = (view: OpenFile): Disk => ({
  ...sparseDisk(view.size(), 0, []),
  read: (into, at) => view.read(into, at),
});

for (const [format, adapter, qemu] of [
  [vhdFormat, vhd, 'vpc'],
  [qcow2Format, qcow2, 'qcow2'],
] as const) {
  const reason = missing(['qemu-img', 'qemu-io']);
  for (const seed of [1, 2, 3]) {
    test.skipIf(reason !== null)(`${format.name}: guest writes by QEMU, script ${seed}`, async () => {
      const folder = scratch();
      try {
        const content = new Uint8Array(SIZE);
        await sparseDisk(SIZE, seed, [{ at: 3 * MIB, length: 5 * MIB }]).read(content, 0);
        const disk = memoryDisk(content);
        const file = format.layout(disk, { writable: true, name: 'disk0' })[0]!;
        const real = path.join(folder, `disk0${file.suffix}`);
        await materialize(file, disk, real);
        const before = fs.readFileSync(real);
        await qemuIo(real, qemu, script(seed));
        const after = fs.readFileSync(real);

        const computed = computedDisk(file, disk, 'patch', file.size + 4 * MIB);
        const patch = new Uint8Array(computed.size);
        await computed.read(patch, 0);
        let size = 0;
        const growth: Growth = {
          limit: computed.size,
          size: () => size,
          extend(to) {
            size = to;
          },
        };
        const view = openWritableView(file, disk, memoryDisk(patch), growth);
        await replay(view, before, after);

        const got = new Uint8Array(after.length);
        await view.read(got.subarray(0, view.size()), 0);
        expect(Buffer.compare(got, after)).toBe(0);
        const guest = path.join(folder, 'guest.raw');
        await qemuImg.convert(real, qemu, guest, 'raw');
        const want = fs.readFileSync(guest);
        const shown = virtualFile(file.suffix, [diskPiece(view.size())]);
        const store = virtualStore([shown], asDisk(view), 'disk0');
        const keys = { secrets: async () => [] };
        await using stack = await openStack({ adapter, store, name: `disk0${file.suffix}`, keys });
        const read = new Uint8Array(stack.size);
        await stack.read(read, 0);
        expect(Buffer.compare(read, want.subarray(0, read.length))).toBe(0);
        expect(want.length).toBe(read.length);
      } finally {
        fs.rmSync(folder, { recursive: true });
      }
    });
  }
}
