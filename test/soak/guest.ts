/** A QEMU guest whose programs write to a clone and read it back, and what it says about that on its console. */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { pause } from './figure.ts';
import type { Stage } from './stage.ts';

const RECIPE = fileURLToPath(new URL('./guest.sh', import.meta.url));
export const PROGRAMS = 4;
/** Patience is counted in looks, not in time: all of this may be stopped for a while. */
export const LOOK_MS = 100;

/** Rounds of the guest's programs so far, and what was wrong. */
interface Report {
  readonly rounds: readonly number[];
  readonly wrong: readonly string[];
}

export interface Guest extends AsyncDisposable {
  report(): Report;
  /** Resolves when so many of the programs have done `more` rounds since now; fails after so many looks, ten a second. */
  progress(more: number, programs: number, looks: number): Promise<void>;
  /** QEMU's own state: `running`, `io-error`, … */
  state(): Promise<string>;
  /** Lets a guest that QEMU has paused go on. */
  resume(): Promise<void>;
}

function reportOf(serial: string): Report {
  const rounds = new Array<number>(PROGRAMS).fill(0);
  for (const [, program, count] of serial.matchAll(/GUEST-OK program=(\d) rounds=(\d+)/g)) {
    rounds[Number(program)] = Number(count);
  }
  return { rounds, wrong: [...serial.matchAll(/GUEST-WRONG.*|I\/O error.*/g)].map(([line]) => line.trim()) };
}

/** One command of QEMU's monitor (QMP), on a connection of its own; answers what it returned. */
function ask(socket: string, command: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const connection = net.connect(socket);
    let rest = '';
    connection
      .setEncoding('utf8')
      .on('error', reject)
      .setTimeout(10_000, () => reject(new Error(`QEMU: no answer to ${command}`)));
    const send = (execute: string): void => void connection.write(`${JSON.stringify({ execute, id: execute })}\n`);
    connection.on('data', part => {
      const lines = (rest + String(part)).split('\n');
      rest = lines.pop()!;
      for (const line of lines.filter(text => text.trim() !== '')) {
        const message = JSON.parse(line) as { QMP?: unknown; id?: string; return?: unknown; error?: unknown };
        if (message.QMP !== undefined) send('qmp_capabilities');
        else if (message.error !== undefined) reject(new Error(`QEMU: ${JSON.stringify(message.error)}`));
        else if (message.id === 'qmp_capabilities') send(command);
        else if (message.id === command) {
          connection.end();
          resolve(message.return);
        }
      }
    });
  });
}

/** `drive`: flags of QEMU's for the clone, besides its file. */
export function startGuest(stage: Stage, drive = ''): Guest {
  stage.run('bash', RECIPE, stage.folder);
  const monitor = path.join(stage.folder, 'monitor');
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg,thread=multi', '-m', '256', '-smp', '2'],
      ...['-nodefaults', '-display', 'none', '-serial', 'stdio', '-qmp', `unix:${monitor},server=on,wait=off`],
      ...['-kernel', path.join(stage.folder, 'vmlinuz'), '-initrd', path.join(stage.folder, 'initrd')],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
      ...['-drive', `file=${stage.clone('raw')},format=raw,if=virtio,cache=none,aio=native${drive}`],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let serial = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      serial += text;
    });
  }
  return {
    report: () => reportOf(serial),
    async progress(more, programs, looks) {
      const from = reportOf(serial).rounds;
      for (let left = looks; reportOf(serial).rounds.filter((n, i) => n >= from[i]! + more).length < programs; left--) {
        if (child.exitCode !== null || left === 0) throw new Error(`the guest stands still: ${serial.slice(-300)}`);
        await pause(LOOK_MS);
      }
    },
    state: async () => ((await ask(monitor, 'query-status')) as { readonly status: string }).status,
    async resume() {
      await ask(monitor, 'cont');
    },
    [Symbol.asyncDispose]: () => endOf(child, stage),
  };
}

async function endOf(child: ChildProcess, stage: Stage): Promise<void> {
  const ended = new Promise<void>(resolve => child.once('close', () => resolve()));
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    await ended;
  }
  fs.rmSync(path.join(stage.folder, 'root'), { recursive: true, force: true });
}
