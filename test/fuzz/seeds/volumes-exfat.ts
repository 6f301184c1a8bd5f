import fs from 'node:fs';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { SAMPLES } from '../../kit/samples.ts';
import { volumeTarget } from '../volume-target.ts';

const SAMPLE = path.join(SAMPLES, 'filesystems/msuhanov+dfir_ntfs/exfat_lin_part.raw.gz');

export const target = volumeTarget(fs.existsSync(SAMPLE) ? [] : ['a sample of exFAT'], async () => [
  { title: 'by Linux', name: 'a', files: { a: new Uint8Array(gunzipSync(fs.readFileSync(SAMPLE))) } },
]);
