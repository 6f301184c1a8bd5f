import { expect, test } from 'vitest';
import { fusermountArgument } from './fusermount.ts';

const options = { fsname: 'unused', allowOther: false, extra: ['noatime'] };

test('nothing set-uid, no devices, no programs, whatever the source is called', () => {
  expect(fusermountArgument('a,dev\\,suid', options)).toBe(
    'rw,noatime,nosuid,nodev,noexec,subtype=bootmount,fsname=a\\,dev\\\\\\,suid',
  );
});

test('the kernel checks modes where others are let in', () => {
  expect(fusermountArgument('r', { ...options, extra: [], allowOther: true })).toBe(
    'rw,nosuid,nodev,noexec,allow_other,default_permissions,subtype=bootmount,fsname=r',
  );
});
