/** Faults of the code of `.bml`, each of which something has to notice. */

export interface Change {
  /** In formats/bml. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

const always = (file: string, name: string): Change => ({
  file,
  from: `export const ${name} =`,
  to: `export const ${name} = (..._: unknown[]): boolean => true;\nexport const real${name} =`,
});

export const PLANTS: Readonly<Record<string, readonly Change[]>> = {
  /** Checksums always fit. */
  'no-checksum': [always('record.ts', 'bodyFits'), always('record.ts', 'headerFits'), always('structs.ts', 'crcFits')],
  /** The entry of a block does not say which bytes are meant. */
  'no-digest': [
    { file: 'opening.ts', from: 'if (key === null && Buffer.compare(', to: 'if (key === undefined && Buffer.compare(' },
    { file: 'objects.ts', from: 'if (!sameBytes(tag.subarray(0, TAG), entry.tag))', to: 'if (tag.length === 0)' },
  ],
  /** Nobody asks whether the records are where they were written. */
  'no-sum': [{ file: 'verify.ts', from: 'if (check.sum.equals(tail.sum)) return;', to: 'return;' }],
  /** The index does not say which node is meant. */
  'no-hash': [
    { file: 'objects.ts', from: 'if (!sameBytes(nodeHash(bytes), entry.tag))', to: 'if (bytes.length === 0)' },
  ],
};
