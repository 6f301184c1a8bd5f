import { describe, expect, it } from 'vitest';
import { ImageError } from '../base/errors.ts';
import { openOverlayOn } from './overlay.ts';
import { DISK_SIZE, patternDisk } from './overlay-model.ts';
import { FAULTS, holdWith } from './overlay-scenarios.ts';
import { type Plan, simulatedFiles } from './simulated-files.ts';
import { PAGE_SPAN } from './states.ts';

describe('an overlay whose files fail', () => {
  for (const kind of FAULTS) {
    const what = `${kind.code}${kind.part === undefined ? '' : ` after ${kind.part} of it`}`;
    it(`keeps its promises when any one call fails with ${what}`, async () => {
      let call = 1;
      for (; ; call++) {
        const machine = await holdWith({ call, ...kind });
        if (!machine.files.plan.faulted) break;
        for (const error of machine.errors) expect(error).toBeInstanceOf(ImageError);
        expect(machine.errors.length, `call ${call} failed and nobody was told`).toBeGreaterThan(0);
      }
      expect(call).toBeGreaterThan(100);
    });
  }

  it('is caught when a flush succeeds after a sync that failed', async () => {
    // The planted error: whatever fails in a sync of the data is said to have been done.
    const verdicts: string[] = [];
    for (let call = 1; call < 200; call++) {
      const machine = holdWith({ call, code: 'EIO' }, plan => {
        plan.lies = each => each.what === 'sync' && each.name.startsWith('data');
      });
      await machine.catch(error => verdicts.push(String(error)));
    }
    expect(verdicts.join()).toMatch(/sector \d+ holds/);
  });

  it('has failed for good once a sync failed, and says why when it is opened again', async () => {
    for (const failing of ['data', 'durable']) {
      const files = simulatedFiles();
      const base = patternDisk(() => false);
      const options = { create: true, size: DISK_SIZE };
      const ground = { files, boot: 'b', lock: { release() {} } };
      const overlay = await openOverlayOn(ground, base, options);
      await overlay.write(new Uint8Array(4096).fill(1), 0);
      await overlay.flush();
      await overlay.write(new Uint8Array(8192).fill(2), 0);
      let once = true;
      files.plan.before = call => {
        if (!once || call.what !== 'sync' || call.name !== failing) return;
        once = false;
        throw new ImageError('io', 'I/O failed (EIO)');
      };
      await expect(overlay.flush()).rejects.toMatchObject({ fault: 'io' });
      await expect(overlay.flush()).rejects.toMatchObject({ fault: 'io' });
      expect(() => overlay.write(new Uint8Array(512), 0)).toThrow(/a sync of the overlay failed/);
      expect(() => overlay.zero(0, 512)).toThrow(/a sync of the overlay failed/);
      const content = new Uint8Array(8192);
      await overlay.read(content, 0);
      expect(content[4096]).toBe(2);
      await expect(overlay.close()).rejects.toMatchObject({ fault: 'io' });

      const sameBoot = await openOverlayOn(ground, base, { create: false });
      expect(sameBoot.readOnly).toMatch(/a sync of this overlay failed/);
      expect(() => sameBoot.write(new Uint8Array(512), 0)).toThrow(expect.objectContaining({ fault: 'read-only' }));
      await expect(sameBoot.grow(DISK_SIZE * 2)).rejects.toMatchObject({ fault: 'read-only' });
      await sameBoot.close();

      const nextBoot = await openOverlayOn({ ...ground, boot: 'c' }, base, { create: false });
      expect(nextBoot.readOnly).toBeNull();
      await nextBoot.write(new Uint8Array(512), 0);
      await nextBoot.close();
    }
  });

  it('says of a sync that found no space that it came too late, and fails like after any other error', async () => {
    const files = simulatedFiles();
    const ground = { files, boot: 'b', lock: { release() {} } };
    const overlay = await openOverlayOn(
      ground,
      patternDisk(() => false),
      { create: true, size: DISK_SIZE },
    );
    await overlay.write(new Uint8Array(4096).fill(1), 0);
    files.plan.before = call => {
      if (call.what === 'sync') throw new ImageError('no-space', 'no space left');
    };
    // Not 'no-space': a guest would be paused, flush once more, and be told that all is well.
    const told = { fault: 'io', message: /full and said so too late/, hint: /make room on the disk below, then start/ };
    await expect(overlay.flush()).rejects.toMatchObject({
      fault: told.fault,
      message: expect.stringMatching(told.message),
      hint: expect.stringMatching(told.hint),
    });
    files.plan.before = () => undefined;
    await expect(overlay.flush()).rejects.toMatchObject({ fault: 'io' });
    await expect(overlay.close()).rejects.toMatchObject({ fault: 'io' });
  });

  it('lets flushes that overlap share only a sync that began after their call', async () => {
    const files = simulatedFiles();
    const ground = { files, boot: 'b', lock: { release() {} } };
    const overlay = await openOverlayOn(
      ground,
      patternDisk(() => false),
      { create: true, size: DISK_SIZE },
    );
    let syncs = 0;
    files.plan.before = call => {
      if (call.what === 'sync' && call.name === 'data') syncs++;
    };
    const block = new Uint8Array(4096);
    await overlay.write(block.fill(1), 0);
    const first = overlay.flush();
    await overlay.write(block.fill(2), 4096);
    const later = [overlay.flush(), overlay.flush(), overlay.flush()];
    await first;
    await Promise.all(later);
    expect(syncs).toBe(2);
    const lost = await openOverlayOn(
      { ...ground, files: files.afterPowerLoss(() => 0), boot: 'c' },
      patternDisk(() => false),
      { create: false },
    );
    const content = new Uint8Array(8192);
    await lost.read(content, 0);
    expect([content[0], content[4096]]).toEqual([1, 2]);
  });

  it('does not acknowledge a write that was waiting for the base when a sync failed', async () => {
    const files = simulatedFiles();
    let answer = (): void => {};
    const base = patternDisk(() => false);
    const slow = {
      ...base,
      read: (into: Uint8Array) => new Promise<void>(resolve => (answer = () => resolve(void into.fill(1)))),
    };
    const ground = { files, boot: 'b', lock: { release() {} } };
    const overlay = await openOverlayOn(ground, slow, { create: true, size: DISK_SIZE });
    const waiting = overlay.write(new Uint8Array(512), 512);
    files.plan.before = call => {
      if (call.what === 'syncNames' || call.what === 'sync') throw new ImageError('io', 'I/O failed (EIO)');
    };
    await expect(overlay.flush()).rejects.toMatchObject({ fault: 'io' });
    answer();
    await expect(waiting).rejects.toMatchObject({ fault: 'io' });
  });

  /** Blocks 0 to 7 are data. Turning them to zeros fails half way in the map, and so does putting the map back. */
  async function halfChanged(plant: (plan: Plan) => void): Promise<Uint8Array> {
    const files = simulatedFiles();
    plant(files.plan);
    const ground = { files, boot: 'b', lock: { release() {} } };
    const base = patternDisk(() => false);
    const overlay = await openOverlayOn(ground, base, { create: true, size: DISK_SIZE, mapCache: 2 * 4096 });
    await overlay.write(new Uint8Array(8 * 4096).fill(1), 0);
    for (const page of [1, 2]) await overlay.write(new Uint8Array(4096), page * PAGE_SPAN);
    await overlay.read(new Uint8Array(512), 0);
    files.plan.fault = { call: files.plan.calls + 1, code: 'EIO', part: 0.5, times: 2 };
    expect(() => overlay.zero(0, 8 * 4096)).toThrow(/EIO/);
    // Other pages push it out of memory, if it lets itself be pushed.
    for (const page of [1, 2, 1, 2]) await overlay.read(new Uint8Array(512), page * PAGE_SPAN);
    await overlay.write(new Uint8Array(4096).fill(2), 0);
    const killed = await openOverlayOn({ ...ground, files: files.afterKill() }, base, { create: false });
    const found = new Uint8Array(2 * 4096);
    await killed.read(found, 0);
    return found;
  }

  it('writes a map page again that was left half changed, before anything relies on it', async () => {
    const found = await halfChanged(() => {});
    expect([found[0], found[4096]]).toEqual([2, 1]);
  });

  it('is caught when that write does not happen', async () => {
    const found = await halfChanged(plan => {
      plan.lies = call => call.what === 'write' && plan.faulted && call.name === 'recent.new';
    });
    expect([found[0], found[4096]]).not.toEqual([2, 1]);
  });
});
