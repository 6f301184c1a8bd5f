import { expect, test } from 'vitest';
import { nameInStore } from './backing.ts';

test.each([
  ['a/disk.qcow2', 'base.qcow2', 'a/base.qcow2'],
  ['disk.qcow2', 'base.qcow2', 'base.qcow2'],
  ['a/b/disk.qcow2', '../base/x.qcow2', 'a/base/x.qcow2'],
  ['a/disk.qcow2', './/base.qcow2', 'a/base.qcow2'],
  ['a/disk.qcow2', 'file:base.qcow2', 'a/base.qcow2'],
  ['a/disk.qcow2', 'c/../d:e.qcow2', 'a/d:e.qcow2'],
])('in %s, %s is %s', (image, written, name) => {
  expect(nameInStore(image, written)).toEqual({ kind: 'inside', name, warning: null });
});

test.each([
  ['a/disk.qcow2', '/var/lib/libvirt/base.qcow2', 'a/base.qcow2'],
  ['a/disk.qcow2', '../../etc/passwd', 'a/passwd'],
  ['disk.qcow2', '../base.qcow2', 'base.qcow2'],
  ['a/disk.qcow2', 'file:/srv/base.qcow2', 'a/base.qcow2'],
  ['a/disk.qcow2', 'C:\\vms\\base.qcow2', 'a/base.qcow2'],
  ['a/disk.qcow2', '\\\\server\\share\\base.qcow2', 'a/base.qcow2'],
])('in %s, %s leads outside: %s, with a warning', (image, written, name) => {
  expect(nameInStore(image, written)).toMatchObject({
    kind: 'inside',
    name,
    warning: expect.stringContaining('outside'),
  });
});

test.each([
  'json:{"driver":"nbd"}',
  'nbd:unix:/x',
  'https://h/x.qcow2',
  'file:///x',
  'rbd:pool/x',
  '',
  'a\0b',
  '/',
  '..',
])('%j is refused', written => {
  expect(nameInStore('a/disk.qcow2', written).kind).toBe('refused');
});
