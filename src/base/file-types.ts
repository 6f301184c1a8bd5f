/** Types of files in the upper bits of a mode (inode(7)). */
export const TYPE_BITS = {
  fifo: 0o010000,
  char: 0o020000,
  dir: 0o040000,
  block: 0o060000,
  file: 0o100000,
  link: 0o120000,
  socket: 0o140000,
} as const;
export const TYPE_MASK = 0o170000;
