/** A parser child whose readers do what a hostile volume could make one do. */
import { serveParser } from '../../src/files/carry-out.ts';
import type { VolumeDir, VolumeNode } from '../../src/volumes/contracts.ts';

const attributes = { mtime: new Date(0), mode: 0o644, uid: 0, gid: 0, links: 1 };

const FAULTS: Readonly<Record<string, () => unknown>> = {
  sound: () => 'sound',
  throws: () => {
    throw new TypeError('planted');
  },
  loops: () => {
    for (;;);
  },
  'never answers': () => new Promise(() => {}),
  'takes buffers': () => {
    const kept: Buffer[] = [];
    for (;;) kept.push(Buffer.allocUnsafeSlow(2 ** 24).fill(1));
  },
  'fills the heap': () => {
    const kept: object[] = [];
    for (;;) kept.push({ a: [kept.length] });
  },
  dies: () => process.kill(process.pid, 'SIGSEGV'),
  'reads a file': () => process.getBuiltinModule('fs').readFileSync('/etc/hostname'),
  'writes to its cache': () => process.getBuiltinModule('fs').writeFileSync(`${process.env.NODE_COMPILE_CACHE}/x`, ''),
  'starts a program': () => process.getBuiltinModule('child_process').spawnSync('/bin/true'),
};

const fileOf = (fault: string): VolumeNode => ({
  kind: 'file',
  ...attributes,
  size: 5,
  allocated: 5,
  open: async () => ({
    size: 5,
    range: (_at, limit) => ({ kind: 'packed', length: limit }),
    read: async (into: Uint8Array) => {
      await FAULTS[fault]!();
      into.set(new TextEncoder().encode('sound').subarray(0, into.length));
    },
  }),
});

const root: VolumeDir = {
  kind: 'dir',
  id: 'root',
  ...attributes,
  list: async () => Object.keys(FAULTS).map(name => ({ name, kind: 'file' as const, node: async () => fileOf(name) })),
};

/** The second stretch of a disk named `hostile` cannot even be opened. */
serveParser(async ({ disks, skip, opening }) => {
  const hostile = disks[0]!.name === 'hostile';
  if (hostile) opening?.('hostile p2');
  while (hostile && skip?.has('hostile p2') !== true);
  const volume = { type: 'planted', label: '', warnings: [], root };
  const notes = hostile ? ['hostile p2 is left out'] : [];
  return {
    volumes: [{ name: 'p1-planted', volume, disk: disks[0]!.disk, start: 0, size: 0, place: () => null }],
    locked: [],
    unknown: [],
    notes,
  };
});
