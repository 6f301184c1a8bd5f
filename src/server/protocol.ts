/** What the command line, the supervisor and the worker say to each other. One JSON document a line. */
import { type Fault, ImageError, type Where } from '../base/errors.ts';
import type { BLAME } from '../host/fuse/suspects.ts';
import type { Unpacked } from '../stores/scratch.ts';
import type { CloneSummary } from '../tree/clones.ts';

export interface CloneRequest {
  readonly point: string;
  readonly name: string;
  readonly format: string;
}

export interface ServeConfig {
  readonly repo: string;
  readonly mountpoint: string;
  readonly state: string;
  readonly nodes: string;
  /** Where compressed backups are unpacked, and how much that may take; null: what is free there. */
  readonly scratch: { readonly folder: string; readonly most: number | null };
  /** Bytes of decoded blocks kept in memory. */
  readonly cache: number;
  /** Base64; the supervisor keeps them for the next worker. */
  readonly secrets: readonly string[];
  /** Base64; for encrypted volumes inside the disks. */
  readonly volumeSecrets: readonly string[];
  /** Files of outside adapters, to be imported. */
  readonly adapters: readonly string[];
  readonly clones: readonly CloneRequest[];
  readonly allowOther: boolean;
}

export interface MountConfig extends ServeConfig {
  readonly transport: 'fuse' | 'fuse-native';
  readonly options: readonly string[];
}

/** Requests that a worker answers. */
export type WorkerRequest =
  | { readonly verb: 'prepare'; readonly config: ServeConfig; readonly resume: boolean }
  /** `blame`: how the worker before ended, for what it had in hand; 'none' for the first one. */
  | { readonly verb: 'serve'; readonly blame: keyof typeof BLAME }
  | { readonly verb: 'status' }
  | { readonly verb: 'flush' }
  | { readonly verb: 'clone'; readonly request: CloneRequest }
  | { readonly verb: 'clone-delete'; readonly name: string }
  | { readonly verb: 'clone-reset'; readonly name: string };

/** Requests that come in through the control socket. */
export type ControlRequest =
  | Exclude<WorkerRequest, { verb: 'prepare' | 'serve' | 'flush' }>
  | { readonly verb: 'umount'; readonly force: boolean }
  | { readonly verb: 'upgrade' };

export interface Prepared {
  readonly sets: number;
  readonly points: number;
  readonly warnings: readonly string[];
}

/** What a worker says when it is ready to serve. */
export interface WorkerPrepared extends Prepared {
  /** It had to translate the program, and has kept that for the next one. */
  readonly translated: boolean;
}

export interface WorkerStatus {
  readonly clones: readonly CloneSummary[];
  readonly cache: { readonly held: number; readonly budget: number; readonly hits: number; readonly misses: number };
  readonly rss: number;
  readonly unpacking: readonly Unpacked[];
  /** Whether the kernel repeats what a worker that died did not answer (Linux 6.9); null: not known yet. */
  readonly survives: boolean | null;
}

export interface MountStatus {
  readonly mount: string;
  readonly repo: string;
  readonly state: string;
  readonly supervisor: { readonly pid: number };
  readonly worker: { readonly pid: number; readonly restarts: number };
  readonly clones: readonly CloneSummary[];
  readonly cache: WorkerStatus['cache'];
  readonly unpacking: WorkerStatus['unpacking'];
}

export interface WireError {
  readonly fault: Fault;
  readonly message: string;
  readonly where: Where;
  readonly hint?: string;
}

/** What a worker says: an answer to a request, or that its event loop turns and so many FUSE requests are answered. */
export type FromWorker =
  | { readonly id: number; readonly value?: unknown; readonly error?: WireError }
  | { readonly beat: number };

export type Reply = { readonly value: unknown } | { readonly error: WireError };

export function toWire(error: unknown): WireError {
  if (error instanceof ImageError) {
    const { fault, message, where, hint } = error;
    return hint === undefined ? { fault, message, where } : { fault, message, where, hint };
  }
  return { fault: 'io', message: error instanceof Error ? error.message : String(error), where: {} };
}

export function fromWire(error: WireError): ImageError {
  return new ImageError(error.fault, error.message, error.where, error.hint === undefined ? {} : { hint: error.hint });
}
