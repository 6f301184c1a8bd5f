/** The control socket of a mount: one request and one reply a connection, only for this user. */
import fs from 'node:fs';
import net from 'node:net';
import { ImageError } from '../base/errors.ts';
import { type ControlRequest, fromWire, type Reply, toWire } from './protocol.ts';

const REQUEST_LIMIT = 65_536;
const MAX_CONNECTIONS = 16;

export interface Control extends AsyncDisposable {
  /** Resolves when it listens. */
  readonly ready: Promise<void>;
}

export function serveControl(socket: string, answer: (request: ControlRequest) => Promise<unknown>): Control {
  fs.rmSync(socket, { force: true });
  const server = net.createServer({ allowHalfOpen: true }, connection => {
    let text = '';
    const reply = (document: Reply): void => {
      connection.end(`${JSON.stringify(document)}\n`);
    };
    connection.setEncoding('utf8');
    connection.setTimeout(10_000, () => connection.destroy());
    connection.on('error', () => connection.destroy());
    connection.on('data', (part: string) => {
      text += part;
      if (text.length > REQUEST_LIMIT) return connection.destroy();
      const end = text.indexOf('\n');
      if (end < 0) return;
      connection.setTimeout(0);
      connection.pause();
      const request = JSON.parse(text.slice(0, end)) as ControlRequest;
      answer(request).then(
        value => reply({ value: value ?? null }),
        error => reply({ error: toWire(error) }),
      );
    });
  });
  server.maxConnections = MAX_CONNECTIONS;
  const ready = new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, () => {
      fs.chmodSync(socket, 0o600);
      resolve();
    });
  });
  return {
    ready,
    [Symbol.asyncDispose]: () =>
      new Promise<void>(resolve => {
        server.close(() => resolve());
        fs.rmSync(socket, { force: true });
      }),
  };
}

/** Asks the mount behind the socket. Nobody there: 'not-found'. */
export function askControl(socket: string, request: ControlRequest, mountpoint: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const connection = net.createConnection(socket);
    let text = '';
    connection.setEncoding('utf8');
    connection.on('connect', () => connection.write(`${JSON.stringify(request)}\n`));
    connection.on('data', (part: string) => {
      text += part;
    });
    connection.on('error', cause => {
      reject(new ImageError('not-found', 'nothing is mounted here by bootmount', { file: mountpoint }, { cause }));
    });
    connection.on('end', () => {
      if (text === '')
        return reject(new ImageError('io', 'the mount went away without an answer', { file: mountpoint }));
      const reply = JSON.parse(text) as Reply;
      if ('error' in reply) reject(fromWire(reply.error));
      else resolve(reply.value);
    });
  });
}
