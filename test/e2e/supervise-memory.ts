/**
 * Holds a mount and has it served by one process after the other, killing each after a while:
 * `supervise-memory.ts MOUNTPOINT BACKING NODES MS`. It touches the mount nowhere, and its own end is the mount's end.
 */
import fs from 'node:fs';
import { setTimeout as after } from 'node:timers/promises';
import { openFuse } from '../../src/host/fuse/index.ts';
import { start } from './served.ts';

const [at, backing, nodesFile, every] = process.argv.slice(2) as [string, string, string, string];
const said = (event: string): void => void fs.writeSync(1, `${event}\n`);
const fd = openFuse(at, { fsname: 'taken over', allowOther: false, extra: [] });
for (let generation = 0; ; generation++) {
  const { child, heard } = start({ transport: 'inherited', at, backing, nodesFile, resume: generation > 0 }, fd);
  const exited = new Promise(resolve => child.once('exit', resolve));
  await heard('ready');
  said(generation === 0 ? 'ready' : 'taken over');
  await after(Number(every));
  child.kill('SIGKILL');
  await exited;
}
