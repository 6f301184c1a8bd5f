/** What an OVF descriptor says about disks: DMTF DSP0243, "Open Virtualization Format Specification", sections 7.1 and 9.1. */
import type { Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { descendants, type Element, parseXml } from '../../src/base/xml.ts';

export interface OvfDisk {
  readonly id: string;
  /** null: the disk is empty. */
  readonly file: string | null;
  /** null: not told as a number. */
  readonly capacity: Bytes | null;
  /** Why the disk cannot be read. */
  readonly problem: string | null;
}

export interface Ovf {
  /** Name of the virtual machine. */
  readonly machine: string | null;
  readonly disks: readonly OvfDisk[];
}

/** `byte`, `byte * 2^30`, or the units of version 0.9. */
function unitOf(written: string | undefined): Bytes | null {
  if (written === undefined || /^\s*byte\s*$/i.test(written)) return 1;
  const power = /^\s*byte\s*\*\s*(2|10)\s*\^\s*(\d{1,2})\s*$/i.exec(written);
  if (power !== null) return Number(power[1]) ** Number(power[2]);
  const named = ['byte', 'kilobyte', 'megabyte', 'gigabyte'].indexOf(written.trim().toLowerCase().replace(/s$/, ''));
  return named < 0 ? null : 1024 ** named;
}

function capacityOf(disk: Element): Bytes | null {
  const written = disk.attributes.get('capacity');
  const unit = unitOf(disk.attributes.get('capacityAllocationUnits'));
  if (written === undefined || !/^\d{1,16}$/.test(written) || unit === null) return null;
  const capacity = Number(written) * unit;
  return Number.isSafeInteger(capacity) ? capacity : null;
}

function problemOf(disk: Element, reference: Element | undefined, fileRef: string | undefined): string | null {
  if (disk.attributes.has('parentRef')) return 'it lies over another disk of the archive, which is not known';
  if (fileRef === undefined) return null;
  if (reference === undefined) return `it refers to a file ${JSON.stringify(fileRef)} that is not listed`;
  const compression = reference.attributes.get('compression') ?? 'identity';
  if (compression !== 'identity' && compression !== '') return `its file is compressed (${compression})`;
  if (reference.attributes.has('chunkSize')) return 'its file is cut into chunks';
  const format = disk.attributes.get('format') ?? '';
  return /vmdk/i.test(format) || format === '' ? null : `its format ${format} is no VMDK`;
}

/** 'corrupt' when the text is no OVF descriptor. Disks in the order of the DiskSection. */
export function parseOvf(text: string, file: string): Ovf {
  const envelope = parseXml(text, file);
  if (envelope.name !== 'Envelope') {
    throw new ImageError('corrupt', `the OVF descriptor starts with <${envelope.name}>, not with an Envelope`, {
      file,
    });
  }
  const files = new Map<string, Element>();
  for (const reference of descendants(envelope, 'References')) {
    for (const each of reference.children) if (each.name === 'File') files.set(each.attributes.get('id') ?? '', each);
  }
  const disks: OvfDisk[] = [];
  // Version 0.9 calls every section "Section" and tells its type.
  const sections = [...envelope.children].filter(each => each.children.some(child => child.name === 'Disk'));
  for (const disk of sections.flatMap(section => section.children).filter(each => each.name === 'Disk')) {
    const fileRef = disk.attributes.get('fileRef');
    const reference = fileRef === undefined ? undefined : files.get(fileRef);
    disks.push({
      id: disk.attributes.get('diskId') ?? '',
      file: reference?.attributes.get('href') ?? null,
      capacity: capacityOf(disk),
      problem: problemOf(disk, reference, fileRef),
    });
  }
  return { machine: machineName(envelope), disks };
}

function machineName(envelope: Element): string | null {
  const [machine] = descendants(envelope, 'VirtualSystem');
  const named = machine?.children.find(child => child.name === 'Name')?.text;
  return named || machine?.attributes.get('id')?.trim() || null;
}
