/** Checksums of damaged tar archives. */
import type { DamagedFiles } from './damage.ts';

const SECTOR = 512;
const HEADERS = 12;

/** Makes the sums of the first headers right again, as far as one leads to the next. */
export function repairTarSums(files: DamagedFiles): void {
  for (const name of files.names) {
    const file = files.file(name)!;
    for (let at = 0, n = 0; at + SECTOR <= file.size && n < HEADERS; n++) {
      const head = Buffer.from(file.read(at, SECTOR));
      if (head.every(byte => byte === 0)) break;
      head.fill(0x20, 148, 156);
      const sum = head.reduce((total, byte) => total + byte, 0);
      file.write(at + 148, Buffer.from(`${sum.toString(8).padStart(6, '0')}\0 `));
      const size = Number.parseInt(head.toString('latin1', 124, 135), 8);
      if (!Number.isSafeInteger(size)) break;
      at += SECTOR + Math.ceil(size / SECTOR) * SECTOR;
    }
  }
}
