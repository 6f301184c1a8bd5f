/** A disk as a used machine has it: files of every kind in runs, and holes between them. The same bytes on every run. */
import fs from 'node:fs';
import { random } from '../kit/random.ts';

const MIB = 2 ** 20;
const BLOCK = 65_536;
const WORDS = 4096;

type Random = ReturnType<typeof random>;

/** Lines of a log: zstd makes a third or less of them. */
function text(into: Buffer, words: readonly string[], { below }: Random, line: { at: number }): void {
  let out = '';
  while (out.length < into.length) {
    out += `${line.at++} host${below(9)} service[${below(30_000)}]:`;
    for (let n = 4 + below(12); n > 0; n--) out += ` ${words[Math.min(below(WORDS), below(WORDS))]!}`;
    out += '\n';
  }
  into.write(out, 'latin1');
}

/** Records of numbers that grow: half of it compresses. */
function table(into: Buffer, { below }: Random): void {
  let value = below(2 ** 30);
  for (let at = 0; at + 16 <= into.length; at += 16) {
    value += below(500);
    into.writeUInt32LE(value % 2 ** 32, at);
    into.writeUInt32LE(below(2 ** 32), at + 4);
    into.writeUInt32LE(below(4096), at + 8);
    into.writeUInt32LE(0, at + 12);
  }
}

function noise(into: Buffer, { below }: Random): void {
  for (let at = 0; at + 4 <= into.length; at += 4) into.writeUInt32LE(below(2 ** 32), at);
}

/** `size` bytes, a multiple of 128 MiB; every other run of 1 to 64 MiB is a hole, and half of the whole. */
export function makeHalfEmptyDisk(file: string, size: number): void {
  const numbers = random(21);
  const words = Array.from({ length: WORDS }, () =>
    Array.from({ length: 2 + numbers.below(9) }, () => String.fromCharCode(97 + numbers.below(26))).join(''),
  );
  const part = Buffer.alloc(MIB);
  const line = { at: 0 };
  const fd = fs.openSync(file, 'w');
  try {
    fs.ftruncateSync(fd, size);
    for (let at = 0; at < size; ) {
      const run = (1 + numbers.below(64)) * MIB;
      for (let end = Math.min(size, at + run); at < end; at += MIB) {
        for (let from = 0; from < MIB; from += BLOCK) {
          const block = part.subarray(from, from + BLOCK);
          const kind = numbers.below(10);
          if (kind < 3) noise(block, numbers);
          else if (kind < 5) table(block, numbers);
          else text(block, words, numbers, line);
        }
        fs.writeSync(fd, part, 0, MIB, at);
      }
      at += run;
    }
  } finally {
    fs.closeSync(fd);
  }
}

/** Overwrites a share of the disk with other data, in runs of up to 1 MiB, anywhere. */
export function changeDisk(file: string, size: number, share: number): void {
  const numbers = random(22);
  const part = Buffer.alloc(MIB);
  const fd = fs.openSync(file, 'r+');
  try {
    let left = size * share;
    while (left > 0) {
      const length = BLOCK * (1 + numbers.below(16));
      const at = numbers.below(Math.floor((size - length) / BLOCK)) * BLOCK;
      noise(part.subarray(0, length / 2), numbers);
      fs.writeSync(fd, part, 0, length, at);
      left -= length;
    }
  } finally {
    fs.closeSync(fd);
  }
}
