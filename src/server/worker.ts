/**
 * The worker: everything that serves a mount, in one process on one thread. It gets the FUSE descriptor as number 3 and
 * its orders over the IPC channel. It holds no state that is not on disk, so that another worker can go on after it.
 *
 * The serving loop blocks in a read of the FUSE device while it is idle. Whoever sends an order therefore asks the mount
 * for its statistics afterwards, which wakes the loop; the loop lets the event loop turn once every few milliseconds.
 */
import { flushCompileCache } from 'node:module';
import { hasTranslated } from '../base/translated.ts';
import type { Connection } from '../host/fuse/journal.ts';
import { type Serving, serveFuse } from '../host/fuse/serve.ts';
import { BLAME } from '../host/fuse/suspects.ts';
import { Complaints } from './complaints.ts';
import { type ServeConfig, toWire, type WorkerPrepared, type WorkerRequest } from './protocol.ts';
import { openStack, type Stack } from './stack.ts';
import { log } from './starter.ts';

const FUSE_FD = 3;
const BEAT_MS = 500;

const complaints = new Complaints(log);
let stack: Stack | undefined;
let config: ServeConfig | undefined;
let resumed = false;
/** Orders that are being carried out: until they are, the loop must not block. */
let answering = 0;
/** What the kernel agreed to; null until it has asked. */
let connection: Connection | null = null;
let serving: Serving | undefined;

function needed(): Stack {
  if (stack === undefined) throw new Error('the worker was not prepared');
  return stack;
}

/** Ends with the mount: closes what is open, and says by its exit code whether everything became durable. */
async function serve(blame: keyof typeof BLAME): Promise<void> {
  serving = serveFuse(FUSE_FD, needed().root, {
    nodesFile: config!.nodes,
    resume: resumed,
    blame: BLAME[blame],
    onError: (request, error) => complaints.note(request, error),
    onRefused: request => log(`workers die of this request, it is answered with an I/O error: ${request}`),
    onSuspect: () => needed().endReadAhead(),
    hideOwners: config!.allowOther && process.geteuid?.() !== 0,
    mailbox: () => answering > 0 || needed().working(),
    onInit: agreed => {
      connection = agreed;
    },
  });
  await serving.ended;
  await needed()[Symbol.asyncDispose]();
  process.exit(0);
}

async function answer(request: WorkerRequest): Promise<unknown> {
  switch (request.verb) {
    case 'prepare':
      config = request.config;
      resumed = request.resume;
      stack = await openStack(request.config);
      // A worker mostly ends by a signal, which would leave the next one nothing.
      flushCompileCache();
      return { ...stack.summary, translated: hasTranslated() } satisfies WorkerPrepared;
    case 'serve':
      serve(request.blame).catch(die);
      return null;
    case 'status':
      return { ...needed().status(), survives: connection?.resend ?? null };
    case 'flush':
      await needed().clones.flush();
      return null;
    case 'clone':
      return needed().makeClone(request.request);
    case 'clone-delete':
      await needed().clones.remove(request.name);
      return null;
    case 'clone-reset':
      return needed().clones.reset(request.name);
  }
}

/**
 * A thread of the pool may be stuck in a read, which keeps `process.exit` waiting for ever: only a signal ends this process.
 * Not SIGKILL, which is what others send: this one tells the supervisor that it was the worker's own doing.
 */
function die(error: unknown): void {
  process.stderr.write(`worker: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.kill(process.pid, 'SIGUSR2');
}

/** Not while the thread is blocked: then nothing waits, and nobody asks. */
setInterval(() => {
  if (process.connected) process.send!({ beat: serving?.answered ?? 0 });
}, BEAT_MS).unref();

process.on('uncaughtException', die);
process.on('unhandledRejection', die);
process.on('message', (message: { id: number; request: WorkerRequest }) => {
  answering++;
  answer(message.request)
    .then(
      value => process.send!({ id: message.id, value }),
      error => process.send!({ id: message.id, error: toWire(error) }),
    )
    .finally(() => answering--);
});
