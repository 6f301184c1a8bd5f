/** Images that name files of the host wherever their formats name files at all. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { descriptorXml, guidOf, NULL_GUID } from '../../formats/parallels/fixtures.ts';
import { blockVhd, uuidOf } from '../../formats/vhd/fixtures.ts';
import { bytesOf, dataGuid, fixture } from '../../formats/vhdx/fixtures.ts';
import { cowd, descriptor } from '../../formats/vmdk/fixtures.ts';

const MIB = 1_048_576;

/** Names that lead to `outside`, a folder beside the repository, or to the machine. */
function posixNames(outside: string): readonly string[] {
  const secret = path.join(outside, 'secret.raw');
  return [
    secret,
    '../outside/secret.raw',
    '../../../../../../../../etc/passwd',
    'x/../../outside/secret.raw',
    '/dev/vda',
    '/proc/self/mem',
    `file:${secret}`,
    `file://${secret}`,
    `json:{"driver":"raw","file":{"driver":"file","filename":"${secret}"}}`,
    'json:{"driver":"nbd","host":"127.0.0.1","port":"1"}',
    'nbd://127.0.0.1:1/disk',
    `nbd:unix:${outside}/socket`,
    'http://127.0.0.1:1/disk.raw',
    'ssh://root@127.0.0.1/etc/passwd',
    'host_device:/dev/vda',
    'fat:rw:/etc',
    '//127.0.0.1/share/secret.raw',
    'link-to-file.raw',
    'link-to-folder/secret.raw',
    'link-to-device.raw',
  ];
}

const windowsNames = (outside: string): readonly string[] => [
  'C:\\Windows\\secret.vhd',
  '\\\\127.0.0.1\\share\\secret.vhd',
  '..\\outside\\secret.raw',
  '\\\\?\\Volume{11111111-2222-3333-4444-555555555555}\\secret.vhd',
  path.join(outside, 'secret.raw').replaceAll('/', '\\'),
  path.join(outside, 'secret.raw'),
  'link-to-file.raw',
];

type Put = (name: string, bytes: Uint8Array) => void;

/** Puts `name` at 1,024, where the first cluster of every one of them is free. */
function withBacking(template: Buffer, format: 'qcow2' | 'qcow' | 'qed', name: string): Buffer {
  const image = Buffer.concat([template, Buffer.alloc(4096)]);
  const text = Buffer.from(name);
  image.set(text, 1024);
  if (format === 'qed') {
    image.writeBigUInt64LE(image.readBigUInt64LE(16) | 1n, 16);
    image.writeUInt32LE(1024, 56);
    image.writeUInt32LE(text.length, 60);
  } else {
    image.writeBigUInt64BE(1024n, 8);
    image.writeUInt32BE(text.length, 16);
  }
  return image;
}

/** An image whose clusters lie in the file `name`. */
function withDataFile(template: Buffer, name: string): Buffer {
  const image = Buffer.from(template);
  const text = Buffer.from(name);
  image.writeBigUInt64BE(4n, 72);
  const at = image.readUInt32BE(100);
  image.fill(0, at, 1024);
  image.writeUInt32BE(0x4441_5441, at);
  image.writeUInt32BE(text.length, at + 4);
  image.set(text, at + 8);
  return image;
}

function backingFiles(folder: string, names: readonly string[], put: Put): void {
  for (const format of ['qcow2', 'qcow', 'qed'] as const) {
    const template = path.join(folder, 'template');
    execFileSync('qemu-img', ['create', '-q', '-f', format, template, String(MIB)]);
    const bytes = fs.readFileSync(template);
    fs.rmSync(template);
    for (const [i, name] of names.entries()) {
      put(`backing-${i}.${format}`, withBacking(bytes, format, name));
      if (format === 'qcow2') put(`data-${i}.qcow2`, withDataFile(bytes, name));
    }
  }
}

const ENCODINGS = { W2ku: 'utf16le', W2ru: 'utf16le', MacX: 'utf8' } as const;

function virtualPc(names: readonly string[], put: Put): void {
  for (const [i, name] of names.entries()) {
    for (const [code, encoding] of Object.entries(ENCODINGS)) {
      const written = code === 'MacX' ? `file://${name.replaceAll('\\', '/')}` : name;
      const locators = [{ code, content: Buffer.from(written, encoding) }];
      const parent = { uuid: uuidOf(1), name, locators };
      put(`parent-${i}-${code}.vhd`, blockVhd({ blockSize: 4096, blocks: [null], uuid: uuidOf(20 + i), parent }));
    }
    const keys = [
      ['parent_linkage', dataGuid('elsewhere')],
      ['relative_path', name],
      ['absolute_win32_path', name],
      ['volume_path', name],
    ] as const;
    put(`parent-${i}.vhdx`, bytesOf(fixture({ name: `child ${i}`, size: MIB, blocks: {}, parent: keys })));
  }
}

function vmware(names: readonly string[], put: Put): void {
  const delta = cowd([null], 8);
  for (const [i, name] of names.entries()) {
    for (const type of ['FLAT', 'SPARSE', 'VMFSSPARSE']) {
      const end = type === 'FLAT' ? ' 0' : '';
      put(`extent-${i}-${type}.vmdk`, Buffer.from(descriptor([`RW 8 ${type} "${name}"${end}`])));
    }
    const hint = { parentCID: '12345678', parentFileNameHint: `"${name}"` };
    put(`hint-${i}.vmdk`, Buffer.from(descriptor([`RW 8 VMFSSPARSE "hint-${i}-delta.vmdk"`], hint)));
    put(`hint-${i}-delta.vmdk`, delta);
  }
}

function bundles(names: readonly string[], put: Put): void {
  for (const [i, name] of names.entries()) {
    for (const type of ['Plain', 'Compressed']) {
      const images = [{ guid: guidOf(1), type, file: name.replaceAll('&', '&amp;').replaceAll('<', '&lt;') }];
      const spec = {
        sectors: 8,
        storages: [{ start: 0, end: 8, images }],
        shots: [{ guid: guidOf(1), parent: NULL_GUID }],
      };
      put(`bundle-${i}-${type}.hdd/DiskDescriptor.xml`, descriptorXml(spec));
    }
  }
}

/** Fills `repo` with them, and `outside` with what they lead to: files that would be read if anybody followed. */
export function hostileNames(repo: string, outside: string): readonly string[] {
  fs.mkdirSync(outside, { recursive: true });
  for (const name of ['secret.raw', 'secret.vhd']) fs.writeFileSync(path.join(outside, name), Buffer.alloc(MIB, 0x53));
  fs.symlinkSync(path.join(outside, 'secret.raw'), path.join(repo, 'link-to-file.raw'));
  fs.symlinkSync(outside, path.join(repo, 'link-to-folder'));
  fs.symlinkSync('/dev/vda', path.join(repo, 'link-to-device.raw'));
  // The second part of a split disk, and a part of an image of several files.
  fs.writeFileSync(path.join(repo, 'split.001'), Buffer.alloc(MIB));
  fs.symlinkSync(path.join(outside, 'secret.raw'), path.join(repo, 'split.002'));
  const made: string[] = ['split.001'];
  const put: Put = (name, bytes) => {
    fs.mkdirSync(path.dirname(path.join(repo, name)), { recursive: true });
    fs.writeFileSync(path.join(repo, name), bytes);
    made.push(name);
  };
  const names = posixNames(outside);
  backingFiles(repo, names, put);
  virtualPc(windowsNames(outside), put);
  vmware([...names, ...windowsNames(outside)], put);
  bundles([...names, ...windowsNames(outside)], put);
  return made;
}
