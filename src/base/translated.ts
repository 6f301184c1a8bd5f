import { getCompileCacheDir } from 'node:module';

/**
 * Whether this process had to translate TypeScript, and what came of it is kept for the next one: the translator then stays
 * in memory for as long as the process runs. The list of what Node has loaded is not documented; without it the answer is no.
 */
export function hasTranslated(): boolean {
  const { moduleLoadList } = process as { readonly moduleLoadList?: readonly string[] };
  if (getCompileCacheDir() === undefined) return false;
  return moduleLoadList?.includes('NativeModule internal/deps/amaro/dist/index') ?? false;
}
