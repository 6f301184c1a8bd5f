/** Every target there is: the modules in `seeds`, by their names. */
import fs from 'node:fs';
import path from 'node:path';
import { missing } from '../kit/oracles.ts';
import type { Prepared, PreparedSeed } from './case.ts';
import { structuresOf } from './structures.ts';
import type { FuzzTarget } from './target.ts';

const FOLDER = path.join(import.meta.dirname, 'seeds');

export const TARGETS: readonly string[] = fs
  .readdirSync(FOLDER)
  .filter(file => file.endsWith('.ts'))
  .map(file => file.slice(0, -'.ts'.length));

/** The module of a target: `seeds/<name>.ts` exports it as `target`. */
export async function targetOf(name: string): Promise<FuzzTarget> {
  const module = (await import(path.join(FOLDER, `${name}.ts`))) as { readonly target: FuzzTarget };
  return module.target;
}

/** Why a target cannot be fuzzed here, or null. */
export const unusable = (target: FuzzTarget): string | null => missing(target.needs);

export async function prepare(name: string): Promise<Prepared> {
  const target = await targetOf(name);
  const seeds: PreparedSeed[] = [];
  for (const seed of await target.seeds()) seeds.push({ seed, structures: await structuresOf(target, seed) });
  return { target, seeds };
}
