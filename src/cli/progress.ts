/** Progress bars: on a terminal only, on stderr, and only for work that takes longer than a second. */

import { formatSize } from './text.ts';
import type { Bar } from './verb.ts';

const SHOW_AFTER_MS = 1000;

/** The bar that is drawn now: there is one line, and what was begun last has it. */
let front: { yieldLine(): void } | null = null;

const NO_BAR: Bar = { at() {}, end() {} };

interface Terminal extends NodeJS.WritableStream {
  readonly isTTY?: boolean;
}

/** Only the terminal's own bar is drawn; NO_COLOR also turns off the cursor control that a moving bar needs colours for. */
export function progressBar(title: string, total: number, stream: Terminal = process.stderr): Bar {
  if (stream.isTTY !== true || process.env.TERM === 'dumb' || total <= 0) return NO_BAR;
  const colour = (process.env.NO_COLOR ?? '') === '';
  const begin = performance.now();
  let drawn: { update(value: number): void; stop(): void } | null = null;
  let loading = false;
  let ended = false;
  let done = 0;

  const own = {
    yieldLine(): void {
      drawn?.stop();
      drawn = null;
      loading = false;
    },
  };
  const show = async (): Promise<void> => {
    const { default: progress } = await import('cli-progress');
    if (ended) return;
    if (front !== own) front?.yieldLine();
    front = own;
    const bar = new progress.SingleBar({
      stream,
      format: (_options, params) => {
        const share = Math.min(1, params.total > 0 ? params.value / params.total : 1);
        const width = 28;
        const full = Math.round(share * width);
        const picture = '#'.repeat(full) + '-'.repeat(width - full);
        const seconds = (performance.now() - begin) / 1000;
        const rate = `${formatSize(Math.round(params.value / seconds))}/s`;
        const line = `[${colour ? `\x1b[36m${picture}\x1b[0m` : picture}]`;
        return `${title} ${line} ${Math.floor(share * 100)} % of ${formatSize(params.total)}, ${rate}`;
      },
      fps: 5,
      clearOnComplete: true,
      hideCursor: true,
      linewrap: null,
      gracefulExit: false,
    });
    bar.start(total, done);
    drawn = bar;
  };
  return {
    at(value) {
      done = value;
      if (drawn !== null) drawn.update(value);
      else if (!loading && performance.now() - begin > SHOW_AFTER_MS) {
        loading = true;
        void show();
      }
    },
    end() {
      ended = true;
      own.yieldLine();
      if (front === own) front = null;
    },
  };
}
