import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { chooseAccelerator, probeKvm, probeSector } from './accelerator.ts';
import { findOvmf, privateUefi } from './ovmf.ts';
import { type MachineSpec, qemuCommand, runQemu, shellLine } from './qemu.ts';

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-test-'));
afterAll(() => fs.rmSync(scratch, { recursive: true }));
const noQemu = spawnSync('qemu-system-x86_64', ['--version']).status !== 0;

const machine: MachineSpec = {
  disks: [{ path: '/mnt/clones/a/disk0.raw', format: 'raw' }],
  bus: 'virtio',
  sectorSize: 512,
  accelerator: 'tcg,thread=multi',
  memory: 512,
  processors: 1,
  screen: 'none',
  network: 'none',
  localTime: false,
};

describe('the command line of QEMU', () => {
  it('names the format of every disk, in their order', () => {
    const disks = [
      { path: '/a.vhd', format: 'vpc' },
      { path: '/b.qcow2', format: 'qcow2' },
    ] as const;
    const line = qemuCommand({ ...machine, disks }).join(' ');
    expect(line).toContain('if=none,id=disk0,format=vpc,discard=ignore,file=/a.vhd');
    expect(line).toContain('if=none,id=disk1,format=qcow2,discard=ignore,file=/b.qcow2');
    expect(line).toContain('virtio-blk-pci,drive=disk0,bootindex=1');
    expect(line).toContain('virtio-blk-pci,drive=disk1');
  });

  it('doubles commas, so that a path cannot bring options along', () => {
    const disks = [{ path: '/x,readonly=on/disk0.raw', format: 'raw' }] as const;
    expect(qemuCommand({ ...machine, disks })).toContain(
      'if=none,id=disk0,format=raw,discard=unmap,file=/x,,readonly=on/disk0.raw',
    );
  });

  it('has no network unless asked', () => {
    expect(qemuCommand(machine).join(' ')).not.toContain('-nic');
    expect(qemuCommand({ ...machine, network: 'user' }).join(' ')).toContain('-nic user');
  });

  it('refuses disks that a bus does not take', () => {
    const many = Array.from({ length: 7 }, (_, i) => ({ path: `/disk${i}`, format: 'raw' as const }));
    expect(() => qemuCommand({ ...machine, bus: 'sata', disks: many })).toThrow('7 disks do not fit on sata');
    expect(() => qemuCommand({ ...machine, bus: 'sata', sectorSize: 4096 })).toThrow('4096-byte sectors');
    expect(qemuCommand({ ...machine, bus: 'nvme', sectorSize: 4096 }).join(' ')).toContain('logical_block_size=4096');
  });

  it('can be pasted into a shell', () => {
    expect(shellLine(['a', "it's", 'x y', '/p,q=1'])).toBe("a 'it'\\''s' 'x y' /p,q=1");
  });
});

describe('running QEMU', () => {
  it('gives out the serial console', async () => {
    const parts: string[] = [];
    const end = await runQemu(['/bin/sh', '-c', 'echo marker'], { onSerial: text => parts.push(text) });
    expect(end.how).toBe('off');
    expect(parts.join('')).toBe('marker\n');
  });

  it('stops at the time limit, and when it is told to', async () => {
    expect((await runQemu(['/bin/sleep', '30'], { timeoutMs: 50 })).how).toBe('timeout');
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    expect((await runQemu(['/bin/sleep', '30'], { signal: stop.signal })).how).toBe('aborted');
    expect(await runQemu(['/bin/sleep', '30'], { signal: stop.signal })).toEqual({ how: 'aborted', seconds: 0 });
  });

  it('tells why it failed', async () => {
    const failing = runQemu(['/bin/sh', '-c', 'echo "qemu: no such disk" >&2; exit 1']);
    await expect(failing).rejects.toMatchObject({ fault: 'io', message: 'QEMU failed: qemu: no such disk' });
    await expect(runQemu(['/nowhere/qemu'])).rejects.toMatchObject({ fault: 'not-found' });
  });

  it.skipIf(noQemu)('is really understood by QEMU, on every bus (skipped without QEMU)', async () => {
    const disk = path.join(scratch, 'a,b.img');
    fs.writeFileSync(disk, probeSector());
    fs.truncateSync(disk, 1024 * 1024);
    for (const bus of ['virtio', 'sata', 'nvme', 'ide'] as const) {
      const command = qemuCommand({ ...machine, bus, memory: 64, disks: [{ path: disk, format: 'raw' }] });
      const exit = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'];
      // The boot sector ends QEMU with 33, which counts as a failure: it was read from the disk and ran.
      await expect(runQemu([...command, ...exit], { timeoutMs: 20_000 })).rejects.toThrow('exit code 33');
    }
  });
});

describe.skipIf(noQemu)('choosing KVM by trying (skipped without QEMU)', () => {
  it('takes what runs the boot sector and refuses what does not', async () => {
    expect(await probeKvm(scratch, 'tcg,thread=multi')).toBe(true);
    expect(await probeKvm(scratch, 'no-such-accelerator')).toBe(false);
    expect(['kvm', 'tcg,thread=multi']).toContain(await chooseAccelerator(scratch));
  });
});

describe('UEFI firmware', () => {
  it('copies the variables and leaves the original alone', async () => {
    const place = { code: path.join(scratch, 'code'), vars: path.join(scratch, 'vars') };
    fs.writeFileSync(place.code, 'code');
    fs.writeFileSync(place.vars, 'variables');
    const missing = { code: '/nowhere/code', vars: '/nowhere/vars' };
    expect(await findOvmf([missing])).toBeNull();
    const copy = path.join(scratch, 'copy');
    expect(await privateUefi(copy, [missing, place])).toEqual({ code: place.code, vars: copy });
    expect(fs.readFileSync(copy, 'utf8')).toBe('variables');
    await expect(privateUefi(copy, [missing])).rejects.toMatchObject({ fault: 'not-found' });
  });
});
