/** The conformance tests of an adapter: one call per format. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Adapter, Keyring } from '../../src/base/contracts.ts';
import { localStore } from '../../src/stores/local.ts';
import {
  borders,
  type Content,
  closing,
  digest,
  flips,
  locates,
  missingParent,
  neverWritten,
  parallel,
  probes,
  randomReads,
  type Structure,
  type Subject,
  truncation,
  wrongKey,
} from './adapter-checks.ts';
import { fileDigest, missing } from './oracles.ts';
import { expectationOf, sampleMissing, scratch, unpackSample } from './samples.ts';

const CHECKS = {
  probe: probes,
  digest,
  'random reads': randomReads,
  'block borders': borders,
  'locate covers': locates,
  'parallel readers': parallel,
  truncation,
  'bit flips': flips,
  'sources closed': closing,
  'never written': neverWritten,
  'missing parent': missingParent,
  'wrong key': wrongKey,
} as const satisfies Record<string, (subject: Subject) => Promise<void>>;

export type CheckName = keyof typeof CHECKS;

/** A check that cannot hold, and why. Without a reason there is no skip. */
export interface Skip {
  readonly test: CheckName;
  readonly reason: string;
}

interface Common {
  readonly title?: string;
  readonly secret?: string;
  readonly skip?: readonly Skip[];
  /** Where the structures lie in the image file; without it, its first and last 4 KiB, unchecked. */
  readonly structures?: (file: Uint8Array) => readonly Structure[];
}

/** A sample of other software with its expectation, its parents beside it. */
export interface SampleImage extends Common {
  readonly sample: string;
  readonly beside?: readonly string[];
}

/** An image made on the spot by a program, in an empty folder, and its raw twin. */
export interface MadeImage extends Common {
  readonly title: string;
  readonly needs: readonly string[];
  readonly make: (folder: string) => Promise<{ readonly file: string; readonly raw: string }>;
}

export interface AdapterKitOptions {
  readonly images: readonly (SampleImage | MadeImage)[];
  /** Samples that are damaged, and the fault that opening them must give. */
  readonly refused?: readonly { readonly sample: string; readonly fault: string }[];
  /** Formats of samples which this adapter may claim; its own name unless told. */
  readonly formats?: readonly string[];
  /** Adapters that open parents in other formats. */
  readonly others?: readonly Adapter[];
  readonly skip?: readonly Skip[];
}

const END = 4096;

function defaultStructures(file: Uint8Array): readonly Structure[] {
  const length = Math.min(END, file.length);
  return [
    { at: 0, length, checked: false },
    { at: file.length - length, length, checked: false },
  ];
}

async function contentOf(image: SampleImage | MadeImage, raw: string | null): Promise<Content> {
  if (raw !== null) return { size: fs.statSync(raw).size, sha256: await fileDigest(raw), nz64k: null };
  const { expect: known } = expectationOf((image as SampleImage).sample);
  const content = known as { size: number; sha256?: string | null; nz64k?: string };
  return { size: content.size, sha256: content.sha256 ?? null, nz64k: content.nz64k ?? null };
}

/** Puts the image and what belongs to it into `folder`. */
export async function subjectOf(
  adapter: Adapter,
  image: SampleImage | MadeImage,
  folder: string,
  options: Pick<AdapterKitOptions, 'formats' | 'others'> = {},
): Promise<Subject> {
  let name: string;
  // Outside the store: a raw file beside the image could be taken for a parent.
  const twin = `${folder}.twin`;
  if ('sample' in image) {
    name = unpackSample(image.sample, folder);
    for (const other of image.beside ?? []) unpackSample(other, folder);
  } else {
    const made = await image.make(folder);
    name = made.file;
    fs.renameSync(path.join(folder, made.raw), twin);
  }
  const file = path.join(folder, name);
  const keys: Keyring = { secrets: async () => (image.secret === undefined ? [] : [Buffer.from(image.secret)]) };
  const bytes = new Uint8Array(fs.readFileSync(file));
  return {
    adapter,
    others: options.others ?? [],
    store: localStore(folder),
    name,
    folder,
    keys,
    content: await contentOf(image, 'sample' in image ? null : twin),
    structures: (image.structures ?? defaultStructures)(bytes),
    formats: options.formats ?? [adapter.name],
    twin,
  };
}

function unusable(image: SampleImage | MadeImage): string | null {
  if (!('sample' in image)) return missing(image.needs);
  const absent = [image.sample, ...(image.beside ?? [])].map(sampleMissing).find(reason => reason !== null);
  return absent ?? (image.sample.endsWith('.bz2') ? missing(['bzip2']) : null);
}

function testImage(adapter: Adapter, image: SampleImage | MadeImage, options: AdapterKitOptions): void {
  const title = image.title ?? (image as SampleImage).sample;
  const reason = unusable(image);
  if (reason !== null) {
    test.skip(`${title} (${reason})`, () => {});
    return;
  }
  const skips = [...(options.skip ?? []), ...(image.skip ?? [])];
  describe(title, () => {
    let subject: Subject;
    let folder: string;
    beforeAll(async () => {
      folder = scratch();
      subject = await subjectOf(adapter, image, folder, options);
    });
    afterAll(() => {
      fs.rmSync(folder, { recursive: true, force: true });
      fs.rmSync(`${folder}.twin`, { force: true });
    });
    for (const [name, check] of Object.entries(CHECKS)) {
      const skip = skips.find(each => each.test === name);
      if (skip !== undefined) test.skip(`${name} (${skip.reason})`, () => {});
      else test(name, () => check(subject));
    }
  });
}

/** Registers every check for every image. */
export function adapterKit(adapter: Adapter, options: AdapterKitOptions): void {
  describe(`adapter ${adapter.name}`, () => {
    for (const image of options.images) testImage(adapter, image, options);
    for (const { sample, fault } of options.refused ?? []) {
      const reason = sampleMissing(sample) ?? (sample.endsWith('.bz2') ? missing(['bzip2']) : null);
      if (reason !== null) {
        test.skip(`refuses ${sample} (${reason})`, () => {});
        continue;
      }
      test(`refuses ${sample}`, async () => {
        const folder = scratch();
        try {
          const name = unpackSample(sample, folder);
          const keys: Keyring = { secrets: async () => [] };
          await expect(adapter.open(name, localStore(folder), keys)).rejects.toMatchObject({ fault });
        } finally {
          fs.rmSync(folder, { recursive: true, force: true });
        }
      });
    }
  });
}
