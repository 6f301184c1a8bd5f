/** Digests of an archive's members: DSP0243, section 6.4, "Package Manifest": `SHA256(disk.vmdk)= 0a1b…`. */
import { createHash } from 'node:crypto';
import type { ByteSource, Bytes, VerifyRun } from '../../src/base/contracts.ts';
import type { Member } from './tar.ts';

const CHUNK: Bytes = 1_048_576;
const LONGEST: Bytes = 1_048_576;
const ALGORITHMS = ['sha1', 'sha256', 'sha384', 'sha512'];

interface Line {
  readonly algorithm: string;
  readonly file: string;
  readonly digest: string;
}

function linesOf(text: string): readonly Line[] {
  const found: Line[] = [];
  for (const [, algorithm, file, digest] of text.matchAll(/^([A-Za-z0-9-]+)\s*\((.+)\)\s*=\s*([0-9a-fA-F]+)\s*$/gm)) {
    found.push({ algorithm: algorithm!.replace('-', '').toLowerCase(), file: file!, digest: digest!.toLowerCase() });
  }
  return found;
}

async function digestOf(
  archive: ByteSource,
  member: Member,
  algorithm: string,
  run: VerifyRun,
  read: (bytes: Bytes) => void,
): Promise<string> {
  const hash = createHash(algorithm);
  const buffer = new Uint8Array(CHUNK);
  for (let at = 0; at < member.size; at += CHUNK) {
    run.signal.throwIfAborted();
    const part = buffer.subarray(0, Math.min(CHUNK, member.size - at));
    await archive.read(part, member.at + at);
    hash.update(part);
    read(part.length);
    // A job beside others: they get their turn between two stretches.
    await new Promise<void>(resolve => setImmediate(resolve));
  }
  return hash.digest('hex');
}

/** Every member that the manifest names is read and compared; an archive without one has nothing to check. */
export async function verifyManifest(
  archive: ByteSource,
  members: readonly Member[],
  run: VerifyRun,
): Promise<{ readonly checked: number; readonly bytes: Bytes }> {
  const manifest = members.find(each => each.name.toLowerCase().endsWith('.mf') && each.size <= LONGEST);
  if (manifest === undefined) return { checked: 0, bytes: 0 };
  const raw = new Uint8Array(manifest.size);
  await archive.read(raw, manifest.at);
  const lines = linesOf(Buffer.from(raw).toString('utf8'));
  const total = lines.reduce((sum, line) => sum + (members.find(each => each.name === line.file)?.size ?? 0), 0);
  let bytes = 0;
  let checked = 0;
  const found = (message: string, offset: Bytes): void =>
    run.found({ fault: 'corrupt', message, file: archive.name, offset });
  for (const { algorithm, file, digest } of lines) {
    const member = members.find(each => each.name === file);
    if (member === undefined) found(`the manifest names ${JSON.stringify(file)}, which is missing`, manifest.at);
    else if (!ALGORITHMS.includes(algorithm)) found(`the manifest's digest ${algorithm} is not known`, manifest.at);
    else {
      const got = await digestOf(archive, member, algorithm, run, read => {
        bytes += read;
        run.progress(bytes, total);
      });
      checked++;
      if (got !== digest) found(`${file} is not what the manifest says (${algorithm})`, member.at);
    }
  }
  return { checked, bytes };
}
