/**
 * `npm run fuzz -- FORMAT… [--cases N] [--seed N]`: sound images with damaged fields are opened, located and read. Every
 * case must end in bytes or in an ImageError, within a second and 64 MiB, and open nothing but its own file and names
 * that lie in its store. Cases that do not are kept in test/fuzz/corpus and end the run with exit code 1.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { adapters } from '../../src/registry.ts';
import { random } from '../kit/random.ts';
import { tryCase } from './case.ts';
import { type Mutation, mutate } from './mutate.ts';
import { FORMATS, type Seed, seedsOf } from './seeds.ts';

const CORPUS = path.join(import.meta.dirname, 'corpus');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { cases: { type: 'string', default: '1000000' }, seed: { type: 'string', default: '1' } },
});

/** Offsets of what is not zero and not plainly content: headers, tables, and the file's end. */
function interestingIn(image: Uint8Array): Uint32Array {
  const at: number[] = [];
  for (let i = 0; i < image.length; i += 4) {
    const near = i < 8192 || i >= image.length - 8192;
    if (near || (image[i]! | image[i + 1]! | image[i + 2]! | image[i + 3]!) !== 0) at.push(i);
    if (!near && at.length > 20_000) i += 60;
  }
  return Uint32Array.from(at);
}

function keep(format: string, seed: Seed, { patches, size }: Mutation, why: string): string {
  fs.mkdirSync(CORPUS, { recursive: true });
  const image = Buffer.from(seed.image);
  for (const { at, bytes } of patches) image.set(bytes.subarray(0, Math.max(0, image.length - at)), at);
  const cut = image.subarray(0, size);
  const name = `${format}-${createHash('sha256').update(cut).digest('hex').slice(0, 12)}`;
  fs.writeFileSync(
    path.join(CORPUS, `${name}.json`),
    `${JSON.stringify({ format, seed: seed.name, size, patches: patches.map(p => ({ at: p.at, hex: Buffer.from(p.bytes).toString('hex') })), why: why.split('\n')[0] }, null, 2)}\n`,
  );
  return name;
}

let failures = 0;
const cases = Number(values.cases);
for (const format of positionals.length === 0 ? FORMATS : positionals) {
  const adapter = adapters.find(a => a.name === format);
  if (adapter === undefined || !FORMATS.includes(format)) {
    process.stderr.write(`fuzz: no such format: ${format} (${FORMATS.join(', ')})\n`);
    process.exitCode = 2;
    break;
  }
  const seeds = await seedsOf(format);
  const places = seeds.map(seed => interestingIn(seed.image));
  const numbers = random(Number(values.seed));
  const began = performance.now();
  let [done, wrong] = [0, 0];
  for (; done < cases && wrong < 20; done++) {
    const which = done % seeds.length;
    const mutation = mutate(seeds[which]!.image, places[which]!, numbers);
    const why = await tryCase(adapter, seeds[which]!, mutation, numbers);
    if (why === null) continue;
    wrong++;
    process.stdout.write(`${format}: ${keep(format, seeds[which]!, mutation, why)}: ${why}\n`);
  }
  failures += wrong;
  process.stdout.write(
    `${format}: ${done} cases, ${wrong} wrong, ${((performance.now() - began) / 1000).toFixed(0)} s, seed ${values.seed}\n`,
  );
}
if (failures > 0) process.exitCode = 1;
