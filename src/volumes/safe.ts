/**
 * What stands between a reader and its callers: whatever a damaged or hostile volume makes a reader throw becomes an
 * ImageError of that one file or folder, and a folder inside itself is found.
 */
import { ImageError } from '../base/errors.ts';
import type {
  Attributes,
  FileContent,
  Volume,
  VolumeDir,
  VolumeEntry,
  VolumeFile,
  VolumeNode,
  VolumeReader,
} from './contracts.ts';
import { WrappedEntry } from './entries.ts';
import type { VolumeSource } from './source.ts';

/** Deeper than any path that a kernel accepts. */
const DEEPEST = 2048;

function damage(source: VolumeSource, error: unknown): ImageError {
  if (error instanceof ImageError) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new ImageError('corrupt', `damaged metadata: ${why}`, { file: source.name }, { cause: error });
}

async function guarded<T>(source: VolumeSource, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw damage(source, error);
  }
}

function safeContent(source: VolumeSource, content: FileContent): FileContent {
  return {
    size: content.size,
    range: (at, limit) => content.range(at, limit),
    read(into, at) {
      try {
        const pending = content.read(into, at);
        if (pending === undefined) return;
        return pending.catch(error => {
          throw damage(source, error);
        });
      } catch (error) {
        throw damage(source, error);
      }
    },
  };
}

interface Above {
  readonly id: string;
  readonly depth: number;
  readonly above: Above | null;
}

const contains = (above: Above | null, id: string): boolean => {
  for (let here = above; here !== null; here = here.above) if (here.id === id) return true;
  return false;
};

/** What a node has beside its content. */
const safeRest = (
  source: VolumeSource,
  { xattrs, streams }: Attributes & { streams?(): Promise<readonly string[]> },
): Pick<VolumeDir, 'xattrs' | 'streams'> => ({
  ...(xattrs === undefined ? {} : { xattrs: () => guarded(source, xattrs) }),
  ...(streams === undefined ? {} : { streams: () => guarded(source, streams) }),
});

function safeFile(source: VolumeSource, file: VolumeFile): VolumeFile {
  const { stream } = file;
  return {
    ...file,
    ...safeRest(source, file),
    open: () => guarded(source, async () => safeContent(source, await file.open())),
    ...(stream === undefined ? {} : { stream: safeStream(source, stream) }),
  };
}

const safeStream =
  (source: VolumeSource, stream: (name: string) => Promise<VolumeFile | null>) =>
  (name: string): Promise<VolumeFile | null> =>
    guarded(source, async () => {
      const file = await stream(name);
      return file === null ? null : safeFile(source, file);
    });

function safeNode(source: VolumeSource, node: VolumeNode, above: Above | null): VolumeNode {
  switch (node.kind) {
    case 'dir':
      return safeDir(source, node, above);
    case 'file':
      return safeFile(source, node);
    case 'link':
      return { ...node, ...safeRest(source, node), target: () => guarded(source, () => node.target()) };
    case 'other':
      return { ...node, ...safeRest(source, node) };
  }
}

function safeDir(source: VolumeSource, dir: VolumeDir, above: Above | null): VolumeDir {
  const depth = (above?.depth ?? 0) + 1;
  source.check(!contains(above, dir.id) && depth <= DEEPEST, 'a folder lies inside itself');
  const here: Above = { id: dir.id, depth, above };
  const { stream, lookup } = dir;
  const open = (entry: VolumeEntry): Promise<VolumeNode> =>
    guarded(source, async () => safeNode(source, await entry.node(), here));
  return {
    ...dir,
    ...safeRest(source, dir),
    list: () => guarded(source, async () => (await dir.list()).map(entry => new WrappedEntry(entry, open))),
    ...(stream === undefined ? {} : { stream: safeStream(source, stream) }),
    ...(lookup === undefined ? {} : { lookup: safeLookup(source, lookup, here) }),
  };
}

const safeLookup =
  (source: VolumeSource, lookup: (name: string) => Promise<VolumeNode | null>, here: Above) =>
  (name: string): Promise<VolumeNode | null> =>
    guarded(source, async () => {
      // Indexes hold the folder itself and the one above too.
      const node = name === '.' || name === '..' ? null : await lookup(name);
      return node === null ? null : safeNode(source, node, here);
    });

/** Opens with a reader; null: not its file system. */
export function openSafely(reader: VolumeReader, source: VolumeSource): Promise<Volume | null> {
  return guarded(source, async () => {
    const volume = await reader.open(source);
    if (volume === null) return null;
    const { free } = volume;
    return {
      ...volume,
      root: safeDir(source, volume.root, null),
      ...(free === undefined ? {} : { free: found => guarded(source, () => free(found)) }),
    };
  });
}
