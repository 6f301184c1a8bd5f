/**
 * Which processes hold files below a mountpoint open. Run as a program it prints them, one a line: a process that is
 * stuck in the kernel can make whoever looks at it in /proc wait without end, and that must not be the caller.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';

const PATIENCE_MS = 3000;

/** `name (pid): path`, read from links only, so that the mount itself is not touched. */
function* holders(mountpoint: string): Generator<string> {
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const held = new Set<string>();
    try {
      const descriptors = fs.readdirSync(`/proc/${pid}/fd`).map(fd => `fd/${fd}`);
      for (const link of ['cwd', ...descriptors]) {
        const target = fs.readlinkSync(`/proc/${pid}/${link}`);
        if (target === mountpoint || target.startsWith(`${mountpoint}/`)) held.add(target);
      }
      const name = held.size === 0 ? '' : fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
      for (const target of held) yield `${name} (${pid}): ${target}`;
    } catch {
      // Ended meanwhile, or another user's.
    }
  }
}

const SELF = fileURLToPath(import.meta.url);

export function openFilesBelow(mountpoint: string): readonly string[] {
  const found = spawnSync(process.execPath, [SELF, mountpoint], {
    encoding: 'utf8',
    timeout: PATIENCE_MS,
    killSignal: 'SIGKILL',
    stdio: ['ignore', 'pipe', 'ignore'],
    cwd: '/',
  });
  return found.stdout.split('\n').filter(line => line !== '');
}

if (process.argv[1] === SELF) for (const line of holders(process.argv[2]!)) process.stdout.write(`${line}\n`);
