/** A client of the NBD protocol with any number of requests under way, and the server that QEMU brings. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { setTimeout as after } from 'node:timers/promises';

/** https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md */
const MAGIC = {
  init: 0x4e42_444d_4147_4943n,
  option: 0x4948_4156_454f_5054n,
  request: 0x2560_9513,
  reply: 0x6744_6698,
};
const EXPORT_NAME = 1;
const NO_ZEROES = 2;
export const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, zeroes: 6 } as const;
/** Flag of `zeroes`: the blocks stay allocated. */
export const NO_HOLE = 2;

interface Waiting {
  readonly length: number;
  readonly resolve: (data: Buffer) => void;
  readonly reject: (error: Error) => void;
}

export interface NbdClient extends AsyncDisposable {
  readonly size: number;
  send(command: keyof typeof COMMAND, at: number, data: Uint8Array | number, flags?: number): Promise<Buffer>;
}

/** Collects what arrives until as many bytes are there as somebody waits for. */
class Inbox {
  readonly #parts: Buffer[] = [];
  #held = 0;

  add(part: Buffer): void {
    this.#parts.push(part);
    this.#held += part.length;
  }

  /** null while fewer bytes are there. */
  take(length: number): Buffer | null {
    if (this.#held < length) return null;
    const all = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts);
    this.#parts.length = 0;
    this.#held = all.length - length;
    if (this.#held > 0) this.#parts.push(all.subarray(length));
    return all.subarray(0, length);
  }
}

/** The socket's file is there a moment before somebody listens. */
async function connected(socketPath: string): Promise<net.Socket> {
  for (let tries = 0; ; tries++) {
    const socket = net.connect(socketPath);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED' || tries > 500) throw error;
      await after(10);
    }
  }
}

/** Connects to the export without a name; the handshake is the fixed one of new style. */
export async function nbdClient(socketPath: string): Promise<NbdClient> {
  const socket = await connected(socketPath);
  const inbox = new Inbox();
  const waiting = new Map<bigint, Waiting>();
  let failed: Error | null = null;
  let wake: (() => void) | null = null;
  const fail = (error: Error): void => {
    failed ??= error;
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
    wake?.();
  };
  socket.on('error', fail);
  socket.on('close', () => fail(new Error('the NBD server closed the connection')));
  const bytes = async (length: number): Promise<Buffer> => {
    for (;;) {
      const got = inbox.take(length);
      if (got !== null) return got;
      if (failed !== null) throw failed;
      await new Promise<void>(resolve => {
        wake = resolve;
      });
    }
  };
  socket.on('data', part => {
    inbox.add(part);
    wake?.();
  });
  const hello = await bytes(18);
  if (hello.readBigUInt64BE(0) !== MAGIC.init || hello.readBigUInt64BE(8) !== MAGIC.option)
    throw new Error('no NBD server');
  const choice = Buffer.alloc(20);
  choice.writeUInt32BE(1 | NO_ZEROES, 0);
  choice.writeBigUInt64BE(MAGIC.option, 4);
  choice.writeUInt32BE(EXPORT_NAME, 12);
  socket.write(choice);
  const size = Number((await bytes(10)).readBigUInt64BE(0));
  const receive = async (): Promise<void> => {
    for (;;) {
      const reply = await bytes(16);
      const cookie = reply.readBigUInt64BE(8);
      const its = waiting.get(cookie);
      if (reply.readUInt32BE(0) !== MAGIC.reply || its === undefined) throw new Error('an answer to no question');
      waiting.delete(cookie);
      const error = reply.readUInt32BE(4);
      if (error !== 0) its.reject(Object.assign(new Error(`NBD error ${error}`), { errno: error }));
      else its.resolve(its.length === 0 ? Buffer.alloc(0) : Buffer.from(await bytes(its.length)));
    }
  };
  void receive().catch(fail);
  let next = 0n;
  const post = (command: number, at: number, length: number, flags: number, data: Uint8Array | null): bigint => {
    const request = Buffer.alloc(28);
    const cookie = next++;
    request.writeUInt32BE(MAGIC.request, 0);
    request.writeUInt16BE(flags, 4);
    request.writeUInt16BE(command, 6);
    request.writeBigUInt64BE(cookie, 8);
    request.writeBigUInt64BE(BigInt(at), 16);
    request.writeUInt32BE(length, 24);
    socket.write(request);
    if (data !== null) socket.write(data);
    return cookie;
  };
  return {
    size,
    send(command, at, data, flags = 0) {
      if (failed !== null) return Promise.reject(failed);
      const length = typeof data === 'number' ? data : data.length;
      return new Promise((resolve, reject) => {
        const cookie = post(COMMAND[command], at, length, flags, typeof data === 'number' ? null : data);
        waiting.set(cookie, { length: command === 'read' ? length : 0, resolve, reject });
      });
    },
    async [Symbol.asyncDispose]() {
      if (failed === null) {
        post(COMMAND.disconnect, 0, 0, 0, null);
        failed = new Error('closed');
      }
      socket.destroy();
    },
  };
}

export interface NbdServer extends AsyncDisposable {
  readonly client: NbdClient;
  /** Lets the server end by itself, with everything written. Throws when it complained. */
  stop(): Promise<void>;
}

/** Serves a file by QEMU's own driver: `source` are the last arguments of `qemu-nbd`. */
export async function qemuNbd(socketPath: string, source: readonly string[]): Promise<NbdServer> {
  fs.rmSync(socketPath, { force: true });
  const child = spawn('qemu-nbd', ['-k', socketPath, '--shared=1', ...source], { stdio: ['ignore', 'ignore', 'pipe'] });
  let told = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    told += text;
  });
  const ended = new Promise<number | null>(resolve => child.on('close', resolve));
  let code: number | null | undefined;
  void ended.then(its => {
    code = its;
  });
  for (let tries = 0; !fs.existsSync(socketPath); tries++) {
    if (code !== undefined || tries > 500) throw new Error(`qemu-nbd did not start: ${told}`);
    await after(10);
  }
  const client = await nbdClient(socketPath);
  const stop = async (): Promise<void> => {
    await client[Symbol.asyncDispose]();
    if ((await Promise.race([ended, after(20_000, 'late')])) === 'late') child.kill('SIGKILL');
    if ((await ended) !== 0 || told !== '') throw new Error(`qemu-nbd ended with ${code}: ${told}`);
  };
  return {
    client,
    stop,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]();
      if (code === undefined) child.kill('SIGKILL');
      await ended;
    },
  };
}

/** The output of a program, whatever its exit code. */
export const outputOf = (program: string, args: readonly string[]): Promise<string> =>
  new Promise(resolve => execFile(program, [...args], (_error, out, err) => resolve(out + err)));
