/** The formats that can be read: those of the registry, and before them what the user brings. */
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Adapter } from '../base/contracts.ts';
import { ImageError } from '../base/errors.ts';
import { adapters as builtIn } from '../registry.ts';

/** What a module that stands by itself cannot import. */
const TOOLS = { ImageError } as const;
/** An adapter, or a function that is given what it needs and returns one. */
type Brought = Adapter | ((tools: typeof TOOLS) => Adapter);

async function importFrom(file: string): Promise<{ readonly default?: Brought; readonly adapter?: Brought }> {
  try {
    return await import(pathToFileURL(path.resolve(file)).href);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND';
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `the adapter cannot be loaded: ${why}`;
    throw new ImageError(missing ? 'not-found' : 'unsupported', message, { file }, { cause });
  }
}

/** `files`: modules with an adapter each. They come first: who brings one means it. */
export async function loadAdapters(files: readonly string[]): Promise<readonly Adapter[]> {
  const outside: Adapter[] = [];
  for (const file of files) {
    const module = await importFrom(file);
    const brought = module.adapter ?? module.default;
    const adapter = typeof brought === 'function' ? brought(TOOLS) : brought;
    if (
      typeof adapter?.name !== 'string' ||
      typeof adapter.probe !== 'function' ||
      typeof adapter.open !== 'function'
    ) {
      const message =
        'exports no adapter: `adapter`, or the default export, is one (name, probe, open) or a function that returns one';
      throw new ImageError('unsupported', message, { file });
    }
    outside.push(adapter);
  }
  return [...outside, ...builtIn];
}
