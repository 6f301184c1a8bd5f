/** Seeds made by QEMU. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { type Seed, seedContent } from './target.ts';

/** One image for each list of `qemu-img convert` flags. */
export function qemuSeeds(extension: string, variants: readonly (readonly string[])[]): readonly Seed[] {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-fuzz-'));
  try {
    fs.writeFileSync(path.join(folder, 'disk.raw'), seedContent());
    return variants.map(flags => {
      const name = `a.${extension}`;
      // QEMU 7.2 writes a compressed `qcow` and then ends with 1: whether the image can be read is seen later.
      spawnSync('qemu-img', ['convert', '-f', 'raw', ...flags, 'disk.raw', name], { cwd: folder });
      const files = { [name]: new Uint8Array(fs.readFileSync(path.join(folder, name))) };
      return { title: flags.join(' '), name, files };
    });
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
