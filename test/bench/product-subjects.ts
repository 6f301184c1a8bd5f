/** Backups of one disk by each product, and what their tools need to get it back. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { volumeFile } from '../../formats/aff4/fixtures.ts';
import { buildFile, type DiskSpec, put } from '../../formats/macrium/fixtures.ts';
import { historyTo, nameOf, track } from '../../formats/macrium/shapes.ts';
import { addSnapshot, type Files } from '../../formats/pbs/fixtures.ts';
import { stream } from '../../formats/virtnbdbackup/fixtures.ts';
import { archive } from '../../formats/vma/fixtures.ts';
import { directoryFiles } from '../../formats/xo/fixtures.ts';
import { xvaFile } from '../../formats/xva/fixtures.ts';
import { localWritableStore } from '../../src/stores/local.ts';

const MIB = 2 ** 20;
/** Runs Xen Orchestra's own library, which is not on Debian, where the variable of that name says that it is installed. */
const VHD_LIB = path.join(import.meta.dirname, 'vhd-lib.ts');

interface Peer {
  readonly name: string;
  /** What a person would type to get the whole disk; `OUT` is a file in memory. */
  readonly command: string;
}

export interface Subject {
  readonly name: string;
  readonly title: string;
  readonly needs: readonly string[];
  /** Where the tools put the disk; `bound`: there is no tool, and the peer only reads the backup's bytes. */
  readonly target: 'null' | 'file' | 'bound';
  readonly flags?: readonly string[];
  /** Makes the backup in the folder of that name. `disk`: a file of `size` bytes. */
  make(disk: string, folder: string): void | Promise<void>;
  readonly peers: readonly Peer[];
  /** What reads `DISK`, the file in the mount, where it is not `dd`: the program that the tool is. */
  readonly reader?: string;
  /** Where the target or the reader is the limit: shown, and no tool to compare with. */
  readonly bounds?: readonly Peer[];
}

type Shell = (command: string) => void;

const CAT: Peer = { name: 'cat', command: 'find IN -type f -print0 | xargs -0 cat > /dev/null' };

function write(folder: string, files: Files): void {
  for (const [name, content] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    fs.writeFileSync(path.join(folder, name), content);
  }
}

/** Chunks of the disk that are not zeros. */
function* dataOf(content: Uint8Array, length: number): Generator<{ readonly at: number; readonly data: Uint8Array }> {
  for (let at = 0; at < content.length; at += length) {
    const data = content.subarray(at, at + length);
    if (data.some(byte => byte !== 0)) yield { at, data };
  }
}

const acquire = (sh: Shell, how: string) => (disk: string, folder: string) =>
  sh(`ewfacquire -q -u -c ${how} -S 4GiB -t ${folder}/disk ${disk}`);

const ewf = (sh: Shell): readonly Subject[] => {
  const needs = ['ewfacquire', 'ewfverify', 'ewfexport'];
  const peers = [
    { name: 'ewfverify', command: 'ewfverify -q IN/disk.E01' },
    { name: 'ewfexport', command: 'ewfexport -q -u -f raw -t - IN/disk.E01 > /dev/null' },
  ];
  const common = { needs, peers, target: 'null' } as const;
  return [
    { ...common, name: 'ewf', title: 'EWF, zlib', make: acquire(sh, 'deflate:fast') },
    { ...common, name: 'ewf-plain', title: 'EWF, not compressed', make: acquire(sh, 'deflate:none') },
  ];
};

/** A volume with files in it, of the disk's size. */
function makeVolume(sh: Shell, root: string, size: number, disk: string): string {
  fs.mkdirSync(path.join(root, 'content'), { recursive: true });
  const files = Math.floor((size / MIB) * 0.7);
  sh(`for i in $(seq 0 ${files}); do dd if=${disk} of=content/f$i bs=1M skip=$((i % 300)) count=1; done`);
  sh(`truncate -s ${size} volume && mkfs.ext4 -q -F -b 4096 -d content volume && rm -r content`);
  return path.join(root, 'volume');
}

const SAVE = 'partclone.extfs -q -F -c -L /dev/null';
const RESTORE = 'partclone.restore -q -L /dev/null';

/** The volume as the one partition of an MBR disk, in the pieces that Clonezilla makes. */
function clonezillaFolder(sh: Shell, volume: string, size: number, folder: string): void {
  sh(
    `${SAVE} -s ${volume} -O v.pcl && zstd -q -c v.pcl | split -b 64M -a 2 - ${folder}/sda1.ext4-ptcl-img.zst.; rm v.pcl`,
  );
  const sectors = size / 512;
  const mbr = Buffer.alloc(512);
  mbr[450] = 0x83;
  mbr.writeUInt32LE(2048, 454);
  mbr.writeUInt32LE(sectors, 458);
  mbr.writeUInt16LE(0xaa55, 510);
  const disk = `Disk /dev/sda: ${sectors + 2048}s\nSector size (logical/physical): 512B/512B\n`;
  write(folder, {
    parts: Buffer.from('sda1\n'),
    disk: Buffer.from('sda\n'),
    'sda-pt.parted': Buffer.from(disk),
    'sda-pt.sf': Buffer.from(`label: dos\nunit: sectors\n\n/dev/sda1 : start= 2048, size= ${sectors}, type=83\n`),
    'sda-mbr': mbr,
  });
}

const partclone = (sh: Shell, root: string, size: number): readonly Subject[] => {
  const volume = (disk: string): string => makeVolume(sh, root, size, disk);
  const needs = ['partclone.extfs', 'partclone.restore', 'mkfs.ext4', 'zstd'];
  const common = { needs, target: 'file' } as const;
  const peer = (source: string): readonly Peer[] => [
    { name: `${source === '' ? '' : 'zstd, '}partclone.restore`, command: `truncate -s SIZE OUT; ${source}${RESTORE}` },
  ];
  const from = (peers: readonly Peer[], input: string): readonly Peer[] =>
    peers.map(each => ({ ...each, command: `${each.command} -s ${input} -O OUT` }));
  return [
    {
      ...common,
      name: 'partclone',
      title: 'partclone, CRC-32',
      make: (disk, folder) => sh(`${SAVE} -s ${volume(disk)} -O ${folder}/v.pcl`),
      peers: from(peer(''), 'IN/v.pcl'),
    },
    {
      ...common,
      name: 'partclone-zst',
      title: 'partclone in zstd, unpacked before',
      make: (disk, folder) => sh(`${SAVE} -s ${volume(disk)} -O v.pcl && zstd -q --rm -o ${folder}/v.pcl.zst v.pcl`),
      peers: from(peer('zstd -dc IN/v.pcl.zst | '), '-'),
    },
    {
      ...common,
      name: 'clonezilla',
      title: 'Clonezilla folder in zstd, unpacked before',
      make: (disk, folder) => clonezillaFolder(sh, volume(disk), size, folder),
      peers: from(peer('cat IN/sda1.* | zstd -dc | '), '-'),
    },
  ];
};

const xen = (sh: Shell): readonly Subject[] => [
  {
    name: 'xva',
    title: 'XVA, SHA-1',
    needs: ['xva-img', 'tar'],
    target: 'file',
    make(disk, folder) {
      const disks = [{ ref: 'Ref:7', device: '0', content: fs.readFileSync(disk) }];
      fs.writeFileSync(path.join(folder, 'vm.xva'), xvaFile({ disks, sum: 'sha1' }));
    },
    peers: [
      {
        name: 'tar, xva-img',
        command: 'mkdir OUT.d; tar xf IN/vm.xva -C OUT.d; xva-img -p disk-export OUT.d/Ref:7/ OUT; rm -r OUT.d',
      },
    ],
  },
  {
    name: 'xo-vhd',
    title: 'Xen Orchestra, VHD file',
    needs: ['qemu-img'],
    target: 'file',
    make: (disk, folder) =>
      sh(`qemu-img convert -f raw -O vpc -o force_size=on ${disk} ${folder}/20261120T100000Z.vhd`),
    peers: [
      { name: 'qemu-img', command: 'qemu-img convert -f vpc -O raw IN/20261120T100000Z.vhd OUT' },
      ...(process.env.VHD_LIB === undefined
        ? []
        : [
            {
              name: "vhd-lib (Xen Orchestra's own)",
              command: `${process.execPath} ${VHD_LIB} IN/20261120T100000Z.vhd OUT`,
            },
          ]),
    ],
    // It reads and writes at the same time and leaves zeros out, which `dd` does not.
    reader: 'qemu-img convert -f raw -T none -O raw DISK OUT',
    bounds: [
      { name: 'qemu-img of the plain disk', command: 'qemu-img convert -f raw -O raw SOURCE OUT' },
      { name: 'dd of the plain disk', command: 'dd if=SOURCE of=OUT bs=1M' },
      { name: 'dd through the mount', command: 'dd if=DISK of=OUT bs=1M iflag=direct' },
    ],
  },
  {
    name: 'xo',
    title: 'Xen Orchestra, VHD directory',
    needs: [],
    target: 'bound',
    make(disk, folder) {
      const content = new Uint8Array(fs.readFileSync(disk));
      const blockSize = 2 * MIB;
      const blocks = Array.from(dataOf(content, blockSize), ({ at, data }) => [at / blockSize, { data }] as const);
      const spec = { uuid: 1, size: content.length, blockSize, blocks: new Map(blocks) };
      write(folder, directoryFiles('vdi/data/1.vhd', spec, ['vdi/20261120T100000Z.alias.vhd', 'data/1.vhd']));
    },
    peers: [CAT],
  },
];

const proxmox: readonly Subject[] = [
  {
    name: 'vma',
    title: 'VMA',
    needs: [],
    target: 'bound',
    make(disk, folder) {
      const devices = [{ name: 'drive-scsi0', content: fs.readFileSync(disk) }];
      fs.writeFileSync(path.join(folder, 'a.vma'), archive({ devices }));
    },
    peers: [CAT],
  },
  {
    name: 'pbs',
    title: 'Proxmox Backup Server, zstd',
    needs: [],
    target: 'bound',
    async make(disk, folder) {
      const files: Files = {};
      const disks = [{ filename: 'drive-scsi0.img.fidx', content: fs.readFileSync(disk) }];
      await addSnapshot(files, { folder: 'vm/100/2026-11-20T10:00:00Z', chunkSize: 4 * MIB, disks });
      write(folder, files);
    },
    peers: [CAT],
  },
];

const libvirt = (pack: boolean): Subject => ({
  name: pack ? 'virtnbdbackup-lz4' : 'virtnbdbackup',
  title: pack ? 'virtnbdbackup, lz4' : 'virtnbdbackup',
  needs: ['virtnbdrestore', 'qemu-img', ...(pack ? ['lz4'] : [])],
  target: 'file',
  make(disk, folder) {
    const content = fs.readFileSync(disk);
    const ranges: { start: number; data: Uint8Array | number }[] = [];
    for (let at = 0; at < content.length; at += 4 * MIB) {
      const [data, zeros] = [content.subarray(at, at + 3 * MIB), content.subarray(at + 3 * MIB, at + 4 * MIB).length];
      ranges.push({ start: at, data });
      if (zeros > 0) ranges.push({ start: at + data.length, data: zeros });
    }
    const checkpoint = 'virtnbdbackup.0';
    const spec = { size: content.length, ranges, checkpoint, ...(pack ? { piece: 2 ** 25 } : {}) };
    fs.writeFileSync(path.join(folder, 'sda.full.data'), stream(spec));
    const device = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/x/sda.qcow2'/>`;
    const xml = `<domain type='test'><name>vm</name><devices>${device}<target dev='sda' bus='sata'/></disk></devices></domain>`;
    const data = { compat: '1.1', 'lazy-refcounts': false, 'refcount-bits': 16, corrupt: false };
    const image = { 'virtual-size': content.length, 'cluster-size': 65_536, format: 'qcow2' };
    write(folder, {
      'vmconfig.virtnbdbackup.0.xml': Buffer.from(xml),
      'sda.virtnbdbackup.0.qcow.json': Buffer.from(
        JSON.stringify({ ...image, 'format-specific': { type: 'qcow2', data } }),
      ),
      'vm.cpt': Buffer.from(JSON.stringify([checkpoint])),
    });
    execFileSync('touch', ['-d', '2026-11-20', path.join(folder, 'sda.full.data')]);
  },
  peers: [
    {
      name: 'virtnbdrestore',
      command: 'virtnbdrestore -n -L /dev/null -U test:///default -f OUT.sock -i IN -o OUT',
    },
  ],
});

const macrium: Subject = {
  name: 'macrium',
  title: 'Macrium Reflect X, zstd',
  needs: [],
  target: 'bound',
  async make(disk, folder) {
    const content = new Uint8Array(fs.readFileSync(disk));
    const blockSize = 65_536;
    const blocks = Array.from(dataOf(content, blockSize), ({ at, data }) => [at / blockSize, data] as const);
    const start = MIB;
    const blockCount = content.length / blockSize;
    const partition = { start, length: content.length, blockSize, blockCount, blocks: new Map(blocks) };
    const spec: DiskSpec = {
      format: 'mbr',
      size: content.length + 2 * MIB,
      bootTrack: track(new Uint8Array(512)),
      partitions: [partition],
    };
    const built = buildFile({ number: 0, history: historyTo(0), compression: 'medium', disks: [spec] });
    await put(built, localWritableStore(folder), nameOf(0));
  },
  peers: [CAT],
};

const aff4: Subject = {
  name: 'aff4',
  title: 'AFF4, snappy',
  needs: [],
  target: 'bound',
  make(disk, folder) {
    const content = new Uint8Array(fs.readFileSync(disk));
    const stream = { name: 'aff4://1/stream', content, chunkSize: 32_768, perBevy: 2048 };
    const image = { name: 'aff4://685e15cc', image: 'aff4://cf853d0b', size: content.length };
    fs.writeFileSync(path.join(folder, 'a.aff4'), volumeFile({ ...image, streams: [stream] }));
  },
  peers: [CAT],
};

/** `sh` runs a command in `root`. */
export const productSubjects = (sh: Shell, root: string, size: number): readonly Subject[] => [
  ...ewf(sh),
  ...partclone(sh, root, size),
  ...xen(sh),
  libvirt(false),
  libvirt(true),
  ...proxmox,
  macrium,
  aff4,
];
