/** Finding the footer that tells the truth: specification, section "Hard Disk Footer Format". */
import type { ByteSource, Bytes } from '../../src/base/contracts.ts';
import { ImageError } from '../../src/base/errors.ts';
import { viewOf } from '../../src/base/struct.ts';
import {
  DISK_TYPE,
  FOOTER_SIZE,
  FORMAT_VERSION,
  Footer,
  type FooterFields,
  footerSum,
  hasCookie,
  parseAt,
  SECTOR,
} from '../../src/base/vhd.ts';

export interface FoundFooter {
  readonly fields: FooterFields;
  readonly raw: Uint8Array;
  /** Offset in the file of the one that is used. */
  readonly at: Bytes;
}

interface Candidate {
  readonly raw: Uint8Array;
  readonly at: Bytes;
  readonly sumHolds: boolean;
}

async function candidate(source: ByteSource, at: Bytes, length: number): Promise<Candidate | null> {
  if (at < 0 || at + length > source.size) return null;
  // Virtual PC before 2004 wrote 511 bytes; the one that is missing is reserved and zero.
  const raw = new Uint8Array(FOOTER_SIZE);
  await source.read(raw.subarray(0, length), at);
  if (!hasCookie(raw, 0)) return null;
  const sum = viewOf(raw).getUint32(Footer.offsetOf('checksum'));
  return { raw, at, sumHolds: footerSum(raw) === sum };
}

/** What speaks for a footer whose checksum does not hold: an equal copy, or the file's size where the disk is fixed. */
function witness(found: Candidate, end: Candidate | null, copy: Candidate | null): string | null {
  const view = viewOf(found.raw);
  if (view.getUint32(Footer.offsetOf('diskType')) === DISK_TYPE.fixed) {
    return view.getBigUint64(Footer.offsetOf('currentSize')) === BigInt(found.at) ? 'the size of the file' : null;
  }
  return end !== null && copy !== null && Buffer.compare(end.raw, copy.raw) === 0 ? 'its copy' : null;
}

/**
 * The footer at the end of the file, or its copy at the start when that is the better one. A checksum that does not
 * hold is accepted with a warning where a second witness agrees.
 */
export async function findFooter(source: ByteSource, warnings: string[]): Promise<FoundFooter> {
  const file = source.name;
  const use = ({ raw, at }: Candidate): FoundFooter => ({ fields: parseAt(Footer, raw, at, file), raw, at });
  const end =
    (await candidate(source, source.size - FOOTER_SIZE, FOOTER_SIZE)) ??
    (await candidate(source, source.size - FOOTER_SIZE + 1, FOOTER_SIZE - 1));
  if (end?.sumHolds) return use(end);
  const copy = end?.at === 0 ? null : await candidate(source, 0, FOOTER_SIZE);
  if (copy?.sumHolds) {
    warnings.push(
      end === null
        ? 'there is no footer at the end of the file (it may be cut off); the copy at its start is used'
        : 'the footer at the end of the file is damaged; its copy at the start is used',
    );
    return use(copy);
  }
  const found = end ?? copy;
  if (found === null) {
    throw new ImageError('not-this-format', 'there is no VHD footer at the end or at the start', { file });
  }
  const agreed = witness(found, end, copy);
  if (agreed === null) {
    throw new ImageError('corrupt', 'the checksum of the VHD footer does not hold and nothing confirms its content', {
      file,
      at: found.at + Footer.offsetOf('checksum'),
      field: 'checksum',
    });
  }
  warnings.push(`the checksum of the footer does not hold, but ${agreed} agrees with it`);
  return use(found);
}

/** Creators whose current size QEMU takes; for others it takes cylinders * heads * sectors. */
const SIZE_IN_FOOTER = ['win ', 'qem2', 'd2v ', 'd2v\0', 'tap\0', 'CTXS'];

/** Refuses by name what this reader does not know, and adds what is odd to `warnings`. */
export function checkFooter({ fields, at }: FoundFooter, file: string, warnings: string[]): void {
  const refuse = (fault: 'unsupported' | 'corrupt', message: string, field: keyof FooterFields): never => {
    throw new ImageError(fault, message, { file, at: at + Footer.offsetOf(field), field });
  };
  if (Math.floor(fields.fileFormatVersion / 65536) !== FORMAT_VERSION / 65536) {
    refuse('unsupported', `VHD version 0x${fields.fileFormatVersion.toString(16)} is not known`, 'fileFormatVersion');
  }
  // Bit 0: temporary disk; bit 1: always set.
  if (fields.features > 3) {
    refuse('unsupported', `VHD feature bits 0x${fields.features.toString(16)} are not known`, 'features');
  }
  if (!Object.values<number>(DISK_TYPE).includes(fields.diskType)) {
    refuse('unsupported', `VHD disk type ${fields.diskType} is not known`, 'diskType');
  }
  if (fields.currentSize === 0 || fields.currentSize % SECTOR !== 0) {
    refuse('corrupt', `the disk's size ${fields.currentSize} is not a number of sectors`, 'currentSize');
  }
  if (fields.savedState === 1) warnings.push('the disk belongs to a saved (suspended) machine');
  const { cylinders, heads, sectorsPerTrack } = fields.diskGeometry;
  const byGeometry = cylinders * heads * sectorsPerTrack * SECTOR;
  const creator = Buffer.from(fields.creatorApplication).toString('latin1');
  if (byGeometry < fields.currentSize && byGeometry > 0 && !SIZE_IN_FOOTER.includes(creator) && cylinders !== 65535) {
    warnings.push(
      `the size is taken from the footer (${fields.currentSize}); software that goes by the geometry of creator ` +
        `${JSON.stringify(creator.replaceAll('\0', ' ').trim())} shows ${byGeometry}`,
    );
  }
}
