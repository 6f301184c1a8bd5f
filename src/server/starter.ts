/** What both kinds of server do with the process that started them, and with signals. */
import type { MountConfig, Prepared } from './protocol.ts';
import { toWire } from './protocol.ts';

export const log = (line: string): void => {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
};

export interface MountServer {
  /** Resolves when the tree can be read. */
  start(): Promise<Prepared>;
  /** Makes everything durable, then lets go; `force` does so under open files too. */
  umount(force: boolean): Promise<void>;
  /** Goes on with the program as it is on disk now. */
  upgrade(): Promise<void>;
}

/** Takes the configuration over IPC, answers once, and goes on alone. A second signal unmounts under open files. */
export function serveFor(make: (config: MountConfig) => MountServer): void {
  const failed = (error: unknown): void => {
    process.send?.({ error: toWire(error) }, () => process.kill(process.pid, 'SIGKILL'));
  };
  process.once('message', (config: MountConfig) => {
    let server: MountServer;
    try {
      server = make(config);
    } catch (error) {
      failed(error);
      return;
    }
    server.start().then(prepared => process.send?.({ value: prepared }, () => process.disconnect?.()), failed);
    const told = (what: string, work: Promise<void>): void => {
      work.catch(error => log(`cannot ${what}: ${error instanceof Error ? error.message : String(error)}`));
    };
    let signals = 0;
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        signals++;
        told('unmount', server.umount(signals > 1));
      });
    }
    process.on('SIGHUP', () => told('upgrade', server.upgrade()));
  });
}
