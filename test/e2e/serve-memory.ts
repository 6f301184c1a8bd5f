/** Serves the tree in memory until it is unmounted. The one argument is a `Job` as JSON. */
import fs from 'node:fs';
import { openFuse, serveFuse } from '../../src/host/fuse/index.ts';
import { fuseNativeHost } from '../../src/host/fuse-native.ts';
import { type Fault, memoryTree } from './memory-tree.ts';

export interface Job {
  /** 'inherited': the kernel protocol on descriptor 3, which somebody else has mounted. */
  readonly transport: 'fuse' | 'fuse-native' | 'inherited';
  readonly at: string;
  readonly asyncWrites?: boolean;
  readonly fault?: Fault;
  readonly backing?: string;
  readonly nodesFile?: string;
  readonly resume?: boolean;
}

const job = JSON.parse(process.argv[2]!) as Job;
const said = (event: string): void => void fs.writeSync(1, `${event}\n`);
// What arrives here is seen only when the event loop turns.
process.stdin.on('data', data => said(`received ${data}`));
const root = memoryTree({
  asyncWrites: job.asyncWrites ?? false,
  fault: job.fault ?? 'none',
  ...(job.backing === undefined ? {} : { backing: job.backing }),
  said,
});
const mountOptions = { fsname: 'memory tree, in a test', allowOther: false, extra: [] };

if (job.transport === 'fuse-native') {
  await using mounted = await fuseNativeHost.mount(root, job.at, mountOptions);
  said('ready');
  await mounted.ended;
} else {
  const fd = job.transport === 'inherited' ? 3 : openFuse(job.at, mountOptions);
  await serveFuse(fd, root, {
    ...(job.nodesFile === undefined ? {} : { nodesFile: job.nodesFile }),
    resume: job.resume ?? false,
    onInit: () => said('ready'),
  }).ended;
}
process.stdin.destroy();
said('ended');
