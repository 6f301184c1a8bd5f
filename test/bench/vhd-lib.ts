/** `VHD_LIB=FOLDER node vhd-lib.ts FILE OUT`: the raw content of a VHD, read by Xen Orchestra's own library (vhd-lib 0.7.2, installed in FOLDER). */
import fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';

const [file, out] = process.argv.slice(2) as [string, string];
const { createContentStream } = createRequire(path.join(process.env.VHD_LIB!, 'x'))('vhd-lib');

/** What the library reads through: as its users' own, over the file system. */
const store = {
  openFile: (name: string) => fs.open(name),
  closeFile: (open: fs.FileHandle) => open.close(),
  read: (open: fs.FileHandle, buffer: Uint8Array, at: number) => open.read(buffer, 0, buffer.length, at),
  getSize: async (open: fs.FileHandle) => (await open.stat()).size,
};
const target = await fs.open(out, 'w');
await pipeline(await createContentStream(store, file), target.createWriteStream());
