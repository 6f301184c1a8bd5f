import { TYPE_BITS, TYPE_MASK } from '../base/file-types.ts';
import type { Device } from './contracts.ts';

const TYPES = new Map<number, Device['type']>(
  (['fifo', 'char', 'block', 'socket'] as const).map(type => [TYPE_BITS[type], type]),
);

/** What a file with this mode is beside a file, folder or link; undefined: none of them. */
export const deviceType = (mode: number): Device['type'] | undefined => TYPES.get(mode & TYPE_MASK);
