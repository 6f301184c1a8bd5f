#!/usr/bin/env node
// Plain JavaScript on purpose: it must run on any Node, to hand over to one that runs TypeScript.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const [major, minor] = process.versions.node.split('.').map(Number);
const able = major > 22 || (major === 22 && minor >= 18);

if (able) {
  const { keepCompiled } = await import('./compile-cache.js');
  keepCompiled();
  const { main } = await import('./main.ts');
  await main(process.argv.slice(2));
} else {
  const bundled = join(here, '../../node_modules/node/bin/node');
  if (!existsSync(bundled)) {
    process.stderr.write(
      `bootmount: Node ${process.versions.node} is too old: 22.18 or newer is needed (npm ci in the checkout brings one)\n`,
    );
    process.exit(1);
  }
  const args = process.argv.slice(2);
  // Descriptors above 2 do not pass by themselves, and a key may come through one.
  const named = args.findIndex(arg => arg === '--key-fd' || arg.startsWith('--key-fd='));
  const fd = named < 0 ? 2 : Number(args[named].split('=')[1] ?? args[named + 1]);
  const stdio = ['inherit', 'inherit', 'inherit'];
  if (Number.isSafeInteger(fd) && fd > 2 && fd < 256) {
    while (stdio.length < fd) stdio.push('ignore');
    stdio.push(fd);
  }
  const child = spawn(bundled, [fileURLToPath(import.meta.url), ...args], { stdio });
  // The terminal sends Ctrl-C to the whole group; a signal sent to this process alone is passed on.
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : code));
}
