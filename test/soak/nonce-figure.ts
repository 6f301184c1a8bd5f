/** Backups killed by SIGKILL, again and again, at any moment: whatever lay in the repository, no nonce is used twice. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { noncesOf } from '../../formats/bml/raw-records.ts';
import { openRepository } from '../../src/chain/repository.ts';
import { adapters } from '../../src/registry.ts';
import { localStore } from '../../src/stores/local.ts';
import { pattern } from '../kit/disks.ts';
import { type Random, random } from '../kit/random.ts';
import type { Figure, Run } from './figure.ts';

const PROGRAM = path.resolve(import.meta.dirname, '../../src/cli/bootmount.js');
const BLOCK = 65_536;
const BLOCKS = 160;
const SECRET = 'correct horse';

interface Place {
  readonly folder: string;
  readonly repo: string;
  readonly disk: string;
  readonly key: string;
}

const filesIn = ({ repo }: Place): string[] => {
  const set = path.join(repo, 'web');
  return fs.existsSync(set) ? fs.readdirSync(set).map(name => path.join(set, name)) : [];
};

/** A block of the disk in three gets other bytes. */
function work({ disk }: Place, { below }: Random): void {
  const fd = fs.openSync(disk, 'r+');
  const block = new Uint8Array(BLOCK);
  for (let i = 0; i < BLOCKS; i++) {
    if (below(3) > 0) continue;
    const seed = 1 + below(2 ** 31);
    pattern(block, i * BLOCK, seed);
    fs.writeSync(fd, block, 0, BLOCK, i * BLOCK);
  }
  fs.closeSync(fd);
}

/** Runs a backup; kills it so many ms after its file is there, unless that is null. True: it was killed. */
async function backup(place: Place, after: number | null): Promise<boolean> {
  const { repo, disk, key } = place;
  const args = [PROGRAM, 'backup', disk, repo, '--set', 'web', '--encrypt', '--key-file', key];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let told = '';
  child.stderr.setEncoding('utf8').on('data', part => {
    told += part;
  });
  const ended = new Promise<number | null>(resolve => child.on('close', resolve));
  let timer: NodeJS.Timeout | undefined;
  const watch = setInterval(() => {
    // The name of an unfinished file has the pid of its writer.
    if (after === null || !filesIn(place).some(file => file.includes(`-${child.pid}-`))) return;
    clearInterval(watch);
    timer = setTimeout(() => child.kill('SIGKILL'), after);
  }, 1);
  const code = await ended;
  clearInterval(watch);
  clearTimeout(timer);
  if (code !== null && code !== 0) throw new Error(`backup: exit ${code}: ${told}`);
  return code === null;
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function expectPoints({ repo }: Place, states: ReadonlySet<string>): Promise<number> {
  await using repository = await openRepository(localStore(repo), adapters, {
    secrets: async () => [Buffer.from(SECRET)],
  });
  const points = repository.sets.flatMap(set => set.points);
  for (const point of points) {
    await using disk = await point.openDisk(0);
    const bytes = new Uint8Array(disk.size);
    await disk.read(bytes, 0);
    if (!states.has(digest(bytes))) throw new Error(`${point.name} is no state that the disk ever had`);
  }
  return points.length;
}

async function runNonces(run: Run): Promise<void> {
  const wanted = run.count(200);
  const chance = random(run.seed);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-nonces-'));
  const at = (name: string): string => path.join(folder, name);
  const place: Place = { folder, repo: at('repo'), disk: at('disk.raw'), key: at('key') };
  const seen = new Map<string, string>();
  let twice = 0;
  const scan = (): void => {
    for (const file of filesIn(place)) twice += noncesOf(fs.readFileSync(file), seen).length;
  };
  try {
    fs.writeFileSync(place.key, SECRET, { mode: 0o600 });
    fs.writeFileSync(place.disk, new Uint8Array(BLOCK * BLOCKS));
    work(place, chance);
    const states = new Set<string>();
    const state = (): void => void states.add(digest(fs.readFileSync(place.disk)));
    state();
    await backup(place, null);
    const [base] = filesIn(place);
    let killed = 0;
    let finished = 0;
    while (killed < wanted) {
      work(place, chance);
      state();
      if (await backup(place, chance.below(250))) killed++;
      else finished++;
      scan();
      // Points that were finished go, so that the next run is again the second one of the set.
      for (const file of filesIn(place)) if (file !== base && file.endsWith('.bml')) fs.rmSync(file);
      if (killed % 20 === 0) run.say(`${killed} killed, ${finished} finished, ${seen.size} nonces`);
    }
    work(place, chance);
    state();
    await backup(place, null);
    scan();
    const points = await expectPoints(place, states);
    const what = `${killed} runs killed, ${finished} finished, ${seen.size} pairs of key and nonce, ${twice} of them twice`;
    run.verdict('nonces', twice === 0 && seen.size > wanted, `${what}; the last run left ${points} points, both right`);
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

export const nonceFigure: Figure = {
  name: 'NONCES',
  what: '200 backups killed by SIGKILL: no nonce twice under a key, and the next run completes',
  plants: [],
  run: runNonces,
};
