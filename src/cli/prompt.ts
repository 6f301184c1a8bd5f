/** A secret typed on the terminal, without echo. */
import { ImageError } from '../base/errors.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const ENTER = [10, 13];
const CTRL_C = 3;
const CTRL_D = 4;
const CTRL_U = 21;
const ERASE = [8, 127];

/** The terminal must be there (`isTTY`). Ctrl-C counts as the signal; an empty line is 'usage'. */
export async function promptSecret(question: string): Promise<Uint8Array> {
  const { stdin, stderr } = process;
  // Before the question: what is typed at once must not be echoed either.
  stdin.setRawMode(true);
  stderr.write(question);
  let typed: number[] = [];
  let giveUp = (): void => {};
  try {
    await new Promise<void>((resolve, reject) => {
      giveUp = () => reject(new ImageError('usage', 'no key was given'));
      for (const signal of SIGNALS) process.once(signal, giveUp);
      const type = (byte: number): boolean => {
        if (byte === CTRL_U) typed = [];
        else if (ERASE.includes(byte)) typed = withoutLast(typed);
        else typed.push(byte);
        return false;
      };
      const ends = (byte: number): boolean =>
        byte === CTRL_C || ENTER.includes(byte) || (byte === CTRL_D && typed.length === 0) || type(byte);
      const onData = (bytes: Buffer): void => {
        const last = bytes.find(ends);
        if (last === undefined) return;
        stdin.off('data', onData);
        if (last === CTRL_C) process.kill(process.pid, 'SIGINT');
        else resolve();
      };
      stdin.on('data', onData);
      stdin.resume();
    });
  } finally {
    for (const signal of SIGNALS) process.off(signal, giveUp);
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write('\n');
  }
  if (typed.length === 0) throw new ImageError('usage', 'the key is empty');
  return Uint8Array.from(typed);
}

/** Takes back one character of UTF-8, however many bytes it has. */
function withoutLast(bytes: readonly number[]): number[] {
  let end = bytes.length - 1;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.slice(0, Math.max(0, end));
}
