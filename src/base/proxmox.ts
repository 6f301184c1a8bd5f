/** The configuration of a Proxmox VE machine (`qemu-server.conf`), as far as the order of its disks goes. */

/** Devices in the order in which the machine boots from them: `boot: order=scsi0;net0`, or the older `bootdisk: scsi0`. */
function bootOrder(config: string): readonly string[] {
  // What follows the first section are states that the machine had before.
  const now = config.split(/^\[/m)[0]!;
  const order = /^boot:.*\border=(\S+)/m.exec(now)?.[1];
  const disk = /^bootdisk:\s*(\S+)/m.exec(now)?.[1];
  return order?.split(/[;,]/) ?? (disk === undefined ? [] : [disk]);
}

/** `drive-scsi0` is the disk that the configuration calls `scsi0`. */
export const deviceName = (drive: string): string => drive.replace(/^drive-/, '');

/** The boot disk first, the small disks of firmware and TPM last, else the order as it is. */
export function inBootOrder<T>(disks: readonly T[], nameOf: (disk: T) => string, config: string): readonly T[] {
  const order = bootOrder(config);
  const rank = (disk: T): number => {
    const name = nameOf(disk);
    const place = order.indexOf(name);
    if (place >= 0) return place;
    return /^(efidisk|tpmstate)/.test(name) ? order.length + 1 : order.length;
  };
  return disks.toSorted((a, b) => rank(a) - rank(b));
}
