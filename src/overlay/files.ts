/** The files of one overlay, behind an interface that a test can break at any call. */
import path from 'node:path';
import type { Bytes, Done } from '../base/contracts.ts';
import {
  allocatedNow,
  makeFolder,
  namesIn,
  openFileNow,
  readSmallFile,
  removeFile,
  renameFile,
  replaceFile,
  spaceNow,
  syncDirectory,
} from '../base/files.ts';
import { readFullNow } from '../base/full-io.ts';
import { native } from '../base/native.ts';

export interface OverlayFile {
  readonly name: string;
  /** Highest byte written so far, plus one. */
  readonly size: Bytes;
  /** Fills `into`, at once or on a pool thread; a short read is an error. */
  read(into: Uint8Array, at: Bytes): Done;
  /** Fills `into` before it returns: for maps, which the next step needs. */
  readNow(into: Uint8Array, at: Bytes): void;
  /** Writes all of `from` before it returns, or throws 'no-space', 'too-big' or 'io'. */
  write(from: Uint8Array, at: Bytes): void;
  /** Makes the file longer, by a hole. */
  lengthen(size: Bytes): Promise<void>;
  /** Resolves when everything written before the call is durable. */
  sync(): Promise<void>;
  /** Gives the range's space back where that is possible; it reads as zeros then, or as before. */
  punch(at: Bytes, length: Bytes): void;
  /** Bytes on disk. */
  allocated(): Bytes;
  close(): Promise<void>;
}

export interface OverlayFiles {
  /** Where they are, for messages. */
  readonly folder: string;
  names(): readonly string[];
  /** Of the file system, in bytes: what is free for us, and all. */
  space(): { readonly free: Bytes; readonly total: Bytes };
  open(name: string, mode: 'write' | 'create'): OverlayFile;
  /** null when there is none. */
  readSmall(name: string, limit: Bytes): Uint8Array | null;
  /** Old or new content after any crash; durable when it resolves. */
  replace(name: string, content: Uint8Array): Promise<void>;
  rename(from: string, to: string): void;
  /** A missing one is fine. */
  remove(name: string): void;
  /** Makes created, renamed and removed names durable. */
  syncNames(): Promise<void>;
}

/** A folder of the local file system; made when it is missing. */
export function localOverlayFiles(folder: string): OverlayFiles {
  makeFolder(folder);
  const at = (name: string): string => path.join(folder, name);
  return {
    folder,
    names: () => namesIn(folder),
    space: () => spaceNow(folder),
    open(name, mode) {
      const file = openFileNow(at(name), mode);
      return {
        name: file.name,
        get size() {
          return file.size;
        },
        read: (into, from) => file.read(into, from),
        readNow: (into, from) => readFullNow(file.fd, into, from, file.name),
        write: (from, to) => file.write(from, to),
        lengthen: size => file.truncate(Math.max(size, file.size)),
        sync: () => file.sync(),
        punch: (from, length) => void native()?.punch(file.fd, from, length),
        allocated: () => allocatedNow(file.fd),
        close: () => file[Symbol.asyncDispose](),
      };
    },
    readSmall: (name, limit) => readSmallFile(at(name), limit),
    replace: (name, content) => replaceFile(at(name), content),
    rename: (from, to) => renameFile(at(from), at(to)),
    remove: name => removeFile(at(name)),
    syncNames: () => syncDirectory(folder),
  };
}
