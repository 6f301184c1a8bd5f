/**
 * `npm run bench:products`: a whole disk read through a mount, beside the product's own tool or the best open one, in
 * interleaved rounds; medians and ratios go to test/bench/PRODUCTS.md. Needs root, /dev/fuse, room for some copies of a
 * disk in memory (/dev/shm), and as many of the tools as are installed.
 *
 *   npm run bench:products -- [--rounds 5] [--size 384] [--only ewf,partclone]
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { archive } from '../../formats/vma/fixtures.ts';
import { xvaFile } from '../../formats/xva/fixtures.ts';
import { missing } from '../kit/oracles.ts';

const RESULTS = fileURLToPath(new URL('./PRODUCTS.md', import.meta.url));
const PROGRAM = fileURLToPath(new URL('../../src/cli/bootmount.js', import.meta.url));
const MIB = 2 ** 20;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    size: { type: 'string', default: '384' },
    only: { type: 'string', default: '' },
  },
});
const rounds = Number(values.rounds);
const SIZE = Number(values.size) * MIB;
const only = values.only === '' ? null : values.only.split(',');
const root = fs.mkdtempSync('/dev/shm/bootmount-products-');

const sh = (command: string): void => {
  execFileSync('bash', ['-c', `set -eo pipefail; ${command}`], { stdio: ['ignore', 'ignore', 'pipe'], cwd: root });
};

interface Peer {
  readonly name: string;
  /** What a person would type to get the whole disk; `OUT` is a file in memory. */
  readonly command: string;
}

interface Subject {
  readonly name: string;
  readonly title: string;
  readonly needs: readonly string[];
  /** Makes the backup in the folder of that name. `disk`: a file of `SIZE` bytes. */
  make(disk: string, folder: string): void;
  readonly peers: readonly Peer[];
}

/** Half of it data of the kind that file systems hold, the rest zeros. */
function writeDisk(file: string): void {
  const part = Buffer.alloc(MIB);
  const fd = fs.openSync(file, 'w');
  let state = 1;
  for (let at = 0; at < SIZE; at += MIB) {
    if (Math.floor(at / MIB) % 4 < 3) {
      for (let i = 0; i < MIB; i++) {
        if (i % 3 === 0) state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        part[i] = i % 4096 < 2600 ? 64 + ((state >>> 24) & 31) : 32;
      }
      fs.writeSync(fd, part, 0, MIB, at);
    }
  }
  fs.ftruncateSync(fd, SIZE);
  fs.closeSync(fd);
}

/** A volume with files in it, of the disk's size. */
const volume = (disk: string): string => {
  const content = path.join(root, 'content');
  fs.mkdirSync(content, { recursive: true });
  sh(
    `for i in $(seq 0 ${Math.floor((SIZE / MIB) * 0.7)}); do dd if=${disk} of=content/f$i bs=1M skip=$((i % 300)) count=1; done`,
  );
  sh(`truncate -s ${SIZE} volume && mkfs.ext4 -q -F -b 4096 -d content volume && rm -r content`);
  return path.join(root, 'volume');
};

const acquire = (how: string) => (disk: string, folder: string) =>
  sh(`ewfacquire -q -u -c ${how} -S 4GiB -t ${folder}/disk ${disk}`);

const SUBJECTS: readonly Subject[] = [
  {
    name: 'ewf',
    title: 'EWF, zlib',
    needs: ['ewfacquire', 'ewfverify', 'ewfexport'],
    make: acquire('deflate:fast'),
    peers: [
      { name: 'ewfverify', command: 'ewfverify -q IN/disk.E01' },
      { name: 'ewfexport', command: 'ewfexport -q -u -f raw -t - IN/disk.E01 > /dev/null' },
    ],
  },
  {
    name: 'ewf-plain',
    title: 'EWF, not compressed',
    needs: ['ewfacquire', 'ewfverify', 'ewfexport'],
    make: acquire('deflate:none'),
    peers: [
      { name: 'ewfverify', command: 'ewfverify -q IN/disk.E01' },
      { name: 'ewfexport', command: 'ewfexport -q -u -f raw -t - IN/disk.E01 > /dev/null' },
    ],
  },
  {
    name: 'partclone',
    title: 'partclone, CRC-32',
    needs: ['partclone.extfs', 'partclone.restore', 'mkfs.ext4'],
    make: (disk, folder) => sh(`partclone.extfs -q -F -c -L /dev/null -s ${volume(disk)} -O ${folder}/v.pcl`),
    peers: [
      {
        name: 'partclone.restore',
        command: 'truncate -s SIZE OUT; partclone.restore -q -L /dev/null -s IN/v.pcl -O OUT',
      },
    ],
  },
  {
    name: 'partclone-zst',
    title: 'partclone in zstd, unpacked before',
    needs: ['partclone.extfs', 'partclone.restore', 'mkfs.ext4', 'zstd'],
    make: (disk, folder) =>
      sh(
        `partclone.extfs -q -F -c -L /dev/null -s ${volume(disk)} -O v.pcl && zstd -q --rm -o ${folder}/v.pcl.zst v.pcl`,
      ),
    peers: [
      {
        name: 'zstd, partclone.restore',
        command: 'truncate -s SIZE OUT; zstd -dc IN/v.pcl.zst | partclone.restore -q -L /dev/null -s - -O OUT',
      },
    ],
  },
  {
    name: 'xva',
    title: 'XVA, SHA-1',
    needs: ['xva-img', 'tar'],
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
    name: 'vma',
    title: 'VMA',
    needs: [],
    make(disk, folder) {
      const devices = [{ name: 'drive-scsi0', content: fs.readFileSync(disk) }];
      fs.writeFileSync(path.join(folder, 'a.vma'), archive({ devices }));
    },
    peers: [{ name: 'cat of the archive', command: 'cat IN/a.vma > /dev/null' }],
  },
];

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;

const secondsOf = (command: string): number => {
  const begin = performance.now();
  sh(command);
  return (performance.now() - begin) / 1000;
};

interface Row {
  readonly title: string;
  /** MB/s of the disk, by who did it. */
  readonly rates: ReadonlyMap<string, number>;
}

function measure(subject: Subject, disk: string): Row {
  const folder = path.join(root, subject.name);
  const mnt = path.join(root, 'mnt');
  const out = path.join(root, 'out');
  fs.mkdirSync(folder);
  fs.mkdirSync(mnt, { recursive: true });
  subject.make(disk, folder);
  execFileSync(process.execPath, [PROGRAM, 'mount', folder, mnt, '--state', path.join(root, 'state')]);
  try {
    const set = path.join(mnt, 'backups', fs.readdirSync(path.join(mnt, 'backups'))[0]!, 'latest');
    const file = path.join(set, fs.readdirSync(set).find(name => name.endsWith('.raw'))!);
    const put = (text: string): string =>
      text.replaceAll('OUT', out).replaceAll('IN', folder).replaceAll('SIZE', `${SIZE}`);
    const ours = { name: 'bootmount', command: `dd if="${file}" of=/dev/null bs=1M iflag=direct` };
    const times = new Map<string, number[]>();
    // The first read indexes, and unpacks what is compressed as a whole.
    sh(put(`dd if="${file}" of=OUT bs=1M iflag=direct`));
    const sound = execFileSync('sha256sum', [out, file])
      .toString()
      .split('\n')
      .map(line => line.slice(0, 64));
    if (sound[0] !== sound[1]) throw new Error(`${subject.name}: two reads differ`);
    for (let round = 0; round < rounds; round++) {
      for (const { name, command } of [ours, ...subject.peers]) {
        fs.rmSync(out, { force: true });
        times.set(name, [...(times.get(name) ?? []), secondsOf(put(command))]);
      }
    }
    const rates = Array.from(times, ([name, all]) => [name, SIZE / 1e6 / median(all)] as const);
    return { title: subject.title, rates: new Map(rates) };
  } finally {
    execFileSync(process.execPath, [PROGRAM, 'umount', mnt, '--release']);
    fs.rmSync(out, { force: true });
    fs.rmSync(folder, { recursive: true });
  }
}

function report(rows: readonly Row[], skipped: readonly string[]): string {
  const lines = rows.map(({ title, rates }) => {
    const [ours, ...peers] = [...rates];
    const best = Math.max(...peers.map(([, rate]) => rate));
    const all = peers.map(([name, rate]) => `${name} ${rate.toFixed(0)}`).join(', ');
    return `| ${title} | ${ours![1].toFixed(0)} | ${all} | ${(ours![1] / best).toFixed(2)} |`;
  });
  return `# A whole disk, beside the products' tools

\`npm run bench:products\`, ${new Date().toISOString().slice(0, 10)}: ${os.cpus().length} × ${os.cpus()[0]?.model ?? 'CPU'}, Linux ${os.release()}, Node
${process.versions.node}; a disk of ${SIZE / MIB} MiB, three quarters of it data; backup and target in memory. MB/s of the
disk, medians of ${rounds} interleaved rounds. Ours is \`dd\` through the mount to /dev/null, one reader; the ratio is to the fastest tool.

| Backup | bootmount | others | ratio |
| --- | ---: | --- | ---: |
${lines.join('\n')}
${skipped.map(line => `\nNot measured: ${line}.`).join('')}`;
}

const disk = path.join(root, 'disk');
try {
  writeDisk(disk);
  const rows: Row[] = [];
  const skipped: string[] = [];
  for (const subject of SUBJECTS) {
    if (only !== null && !only.includes(subject.name)) continue;
    const reason = missing(subject.needs);
    if (reason !== null) skipped.push(`${subject.title} (${reason})`);
    else {
      rows.push(measure(subject, disk));
      process.stdout.write(`${report(rows.slice(-1), []).split('\n').at(-2)}\n`);
    }
  }
  const text = report(rows, skipped);
  process.stdout.write(`${text}\n`);
  if (only === null) fs.writeFileSync(RESULTS, `${text}\n`);
} finally {
  fs.rmSync(root, { recursive: true, force: true });
}
