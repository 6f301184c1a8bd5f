/** Every verb, loaded only when it is used: start-up time is part of the product. */
import type { Verb } from './verb.ts';

type VerbModule = Promise<{ readonly command: Verb }>;

export const verbs: Readonly<Record<string, () => VerbModule>> = {
  ls: () => import('./ls.ts'),
  info: () => import('./info.ts'),
  mount: () => import('./mount.ts'),
  umount: () => import('./umount.ts'),
  upgrade: () => import('./upgrade.ts'),
  backup: () => import('./backup.ts'),
  verify: () => import('./verify.ts'),
  restore: () => import('./restore.ts'),
  convert: () => import('./convert.ts'),
  consolidate: () => import('./consolidate.ts'),
  prune: () => import('./prune.ts'),
  key: () => import('./key.ts'),
  clone: () => import('./clone.ts'),
  boot: () => import('./boot.ts'),
  cat: () => import('./cat.ts'),
  cp: () => import('./cp.ts'),
  tree: () => import('./tree.ts'),
  find: () => import('./find.ts'),
  history: () => import('./history.ts'),
  diff: () => import('./diff.ts'),
  doctor: () => import('./doctor.ts'),
  completion: () => import('./completion.ts'),
};
