/** Figures as tables, with ratios. */
import os from 'node:os';
import type { Job } from './jobs.ts';
import { bootmount, plainFile, type Subject, tool } from './peers.ts';

export interface PeerFigures {
  /** By job, one value a round. */
  readonly values: ReadonlyMap<string, number[]>;
  /** Jobs that wrote, after which other bytes were found than had been written. */
  readonly wrong: Set<string>;
}
export type Figures = ReadonlyMap<string, PeerFigures>;

const median = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;

const show = (n: number): string =>
  Number.isNaN(n) ? '–' : n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2);

const middle = (figures: Figures, peer: string, job: string): number =>
  median(figures.get(peer)?.values.get(job) ?? []);

const isWrong = (figures: Figures, peer: string, job: string): boolean => figures.get(peer)?.wrong.has(job) === true;
const WRONG = ' †';
const FOOTNOTE = `${WRONG.trim()} Read back, the bytes are not those that were written: no figure to compare with.`;

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

export function table(subject: Subject, figures: Figures): string {
  const { jobs } = subject;
  const own = bootmount.name;
  const others = [...figures.keys()].filter(name => name !== own && name !== plainFile.name);
  const cell = (peer: string, job: string): string =>
    `${show(middle(figures, peer, job))}${isWrong(figures, peer, job) ? WRONG : ''}`;
  const rows = [...figures.keys()].map(name => line([name, ...jobs.map(j => cell(name, j.name))]));
  const ratio = (what: string, of: (job: Job) => number): string =>
    line([`**ratio to ${what}**`, ...jobs.map(j => `**${show(middle(figures, own, j.name) / of(j))}**`)]);
  const best = (job: Job): number =>
    Math.max(
      ...others
        .filter(peer => !isWrong(figures, peer, job.name))
        .map(peer => middle(figures, peer, job.name))
        .filter(n => !Number.isNaN(n)),
    );
  if (others.length > 0) rows.push(ratio('the best peer', best));
  if (figures.has(plainFile.name)) rows.push(ratio('the plain file', job => middle(figures, plainFile.name, job.name)));
  const head = `${line(['', ...jobs.map(j => `${j.name} (${j.unit})`)])}\n|${'---|'.repeat(jobs.length + 1)}`;
  const notes = [...figures.values()].some(({ wrong }) => wrong.size > 0) ? `\n${FOOTNOTE}\n` : '';
  return `## ${subject.name}\n\n${head}\n${rows.join('\n')}\n${notes}`;
}

/** What a chain of the second subject costs against one of the first. */
export function depthTable(name: string, jobs: readonly Job[], shallow: Figures, deep: Figures): string {
  const row = (peer: string): string =>
    line([peer, ...jobs.map(j => show(middle(shallow, peer, j.name) / middle(deep, peer, j.name)))]);
  const head = `${line(['depth 1 ÷ depth 100', ...jobs.map(j => j.name)])}\n|${'---|'.repeat(jobs.length + 1)}`;
  return `## ${name}\n\n${head}\n${[...deep.keys()].map(row).join('\n')}\n`;
}

const version = (program: string, ...args: string[]): string => {
  try {
    const told = tool(program, ...args).split('\n');
    return told.find(text => /\d/.test(text))?.trim() ?? '';
  } catch {
    return `${program}: not installed`;
  }
};

const packaged = (name: string): string => {
  const told = version('dpkg-query', '-W', name).replace('\t', ' ');
  return told.startsWith(`${name} `) ? told : `${name}: not installed`;
};

export function machine(rounds: number, ms: number): string {
  const lines = [
    `Linux ${os.release()}, ${os.cpus().length} × ${os.cpus()[0]?.model.trim()}, Node ${process.versions.node}`,
    `${version('qemu-img', '--version')}; ${['xmount', 'nbdkit', 'libnbd-bin', 'libvhdi-utils'].map(packaged).join('; ')}; ${version('fio', '--version')}`,
    `Medians of ${rounds} interleaved rounds of ${ms} ms (first writes: a range once, in memory that the machine has in hand), O_DIRECT, libaio; the backing files are in the page cache. In the last round what is written is also read back and verified. Absolute figures vary between machines; the ratios are the point.`,
  ];
  return lines.map(text => `- ${text}`).join('\n');
}
