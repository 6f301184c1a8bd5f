import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { mountArgument, openFuse, parseMounts, sourceName, unmount } from './mount.ts';

const options = { fsname: 'x', allowOther: false, extra: [] };
const folder = (): string => fs.mkdtempSync(path.join(os.tmpdir(), 'bootmount-mount-'));

describe('mountinfo', () => {
  it('finds our mounts, whatever their names contain', () => {
    const name = Buffer.from('/mnt/ü b').toString('latin1').replace(' ', '\\040');
    const text = [
      '27 1 254:0 / / rw,relatime - ext4 /dev/vda rw',
      `42 27 0:39 / ${name} rw,nosuid,nodev shared:5 master:1 - fuse.bootmount a\\134b\\011c rw,user_id=0`,
      '43 27 0:40 / /mnt/other rw - fuse.sshfs host: rw',
      '',
    ].join('\n');
    expect(parseMounts(text)).toEqual([
      { at: '/mnt/ü b', source: 'a\\b\tc', device: '0:39', options: 'rw,nosuid,nodev,rw,user_id=0' },
    ]);
  });
});

describe('options', () => {
  it('always end with the ones that protect the host', () => {
    expect(mountArgument({ ...options, extra: ['noatime'] })).toMatch(
      /default_permissions,noatime,nosuid,nodev,noexec$/,
    );
    expect(mountArgument({ ...options, allowOther: true })).toContain(',allow_other,');
  });

  it.each(['suid', 'dev', 'fd=9', 'noatime,suid', 'user_id=1', ''])('refuse %j', option => {
    expect(() => mountArgument({ ...options, extra: [option] })).toThrow(expect.objectContaining({ fault: 'usage' }));
  });

  it('keep a name from being looked up', () => {
    expect(sourceName('LABEL=root')).toBe('LABEL:root');
    expect(sourceName('a\nb')).toBe('a?b');
    expect(sourceName('')).toBe('bootmount');
    expect(sourceName('/srv/back ups')).toBe('/srv/back ups');
  });
});

describe('a mountpoint', () => {
  it('has to be an empty directory', () => {
    const at = folder();
    fs.writeFileSync(path.join(at, 'file'), '');
    expect(() => openFuse(at, options)).toThrow(expect.objectContaining({ fault: 'exists' }));
    expect(() => openFuse(path.join(at, 'file'), options)).toThrow(expect.objectContaining({ fault: 'exists' }));
    expect(() => openFuse(path.join(at, 'missing'), options)).toThrow(expect.objectContaining({ fault: 'not-found' }));
    expect(() => openFuse(path.join(at, 'missing/too'), options)).toThrow(
      expect.objectContaining({ fault: 'not-found' }),
    );
    expect(() => openFuse('/', options)).toThrow(expect.objectContaining({ fault: 'usage' }));
  });

  it('is unmounted only when it is one', async () => {
    await expect(unmount(folder())).rejects.toMatchObject({ fault: 'not-found' });
  });
});
