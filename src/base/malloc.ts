/**
 * Environment of programs whose memory is bounded, for glibc: it gives large buffers back when they are freed, which by
 * default it keeps once there were some. Source: mallopt(3).
 */
export const FRUGAL_MALLOC: Readonly<Record<string, string>> = {
  MALLOC_MMAP_THRESHOLD_: '65536',
  MALLOC_ARENA_MAX: '2',
};
