# Sourced by tiny-disk.sh for OS=linux: puts $work/vmlinuz and $work/initrd there.
# shellcheck shell=bash disable=SC2154
package=${KERNEL_DEB:-linux-image-cloud-amd64} cache=${CACHE:-${HOME:-/root}/.cache/tiny-disk}
mkdir -p "$cache"
# The package of that name only depends on the newest kernel's own package.
real=$(apt-cache depends "$package" | awk '/Depends: linux-image/{print $2; exit}')
real=${real:-$package}
kernel=$cache/$real
if [[ ! -d $kernel/boot ]]; then
  echo "fetching $real" >&2
  if ! (cd "$cache" && apt-get -q download "$real" >/dev/null 2>&1 && dpkg-deb -x "$real"_*.deb "$kernel.new"); then
    echo "$0: cannot fetch the package $real (apt-get update first?)" >&2
    exit 1
  fi
  mv "$kernel.new" "$kernel"
fi
cp "$kernel"/boot/vmlinuz-* "$work/vmlinuz"
module_tree=$(find "$kernel" -path '*lib/modules/*' -prune -type d | head -n 1)

root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,mnt,modules}
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in sh mount umount insmod sha256sum cat echo sync poweroff reboot sleep dd cut tr sed readlink dirname basename; do
  ln -s busybox "$root/bin/$applet"
done

: >"$root/modules/order"
add_module() { # depth first: what a module depends on is loaded before it
  local name=${1//-/_} file needed
  ! grep -qx "$name" "$root/modules/order" || return 0
  file=$(find "$module_tree/kernel" -name "${name//_/[-_]}.ko*" | head -n 1)
  [[ -n $file ]] || return 0 # built into this kernel, or not made for it
  case $file in
    *.xz) xz -dc "$file" >"$root/modules/$name.ko" ;;
    *.zst) zstd -qdc "$file" >"$root/modules/$name.ko" ;;
    *) cp "$file" "$root/modules/$name.ko" ;;
  esac
  for needed in $(modinfo -F depends "$root/modules/$name.ko" | tr , ' ') \
    $(modinfo -F softdep "$root/modules/$name.ko" | sed -n 's/^pre: //p'); do
    add_module "$needed"
  done
  strip --strip-debug "$root/modules/$name.ko"
  echo "$name" >>"$root/modules/order"
}
for module in virtio_pci virtio_blk virtio_scsi sd_mod ata_piix ata_generic ahci nvme mptspi vmw_pvscsi hv_storvsc \
  crc32c_generic crc32c_intel ext4; do
  add_module "$module"
done

cat >"$root/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko" 2>/dev/null; done </modules/order
data= tries=0
while [ -z "$data" ] && [ $tries -lt 100 ]; do
  for entry in /sys/class/block/*2; do
    [ -e "$entry/partition" ] && mount -t ext4 "/dev/${entry##*/}" /mnt 2>/dev/null || continue
    if [ -e /mnt/TINY-SUM ]; then data=${entry##*/}; break; fi
    umount /mnt
  done
  sleep 0.1; tries=$((tries + 1))
done
if [ -z "$data" ]; then
  echo "TINY-BOOT-FAILED: no disk with the payload"; cat /proc/partitions
else
  (cd /mnt && sha256sum -c TINY-SUM >/dev/null 2>&1) && read=ok || read=BAD
  boots=0; [ -e /mnt/count ] && boots=$(cat /mnt/count)
  boots=$((boots + 1)); echo $boots >/mnt/count && sync && write=ok || write=BAD
  dd if=/dev/zero of=/mnt/scratch bs=64k count=32 conv=fsync 2>/dev/null || write=BAD
  umount /mnt && mount -t ext4 -o ro "/dev/$data" /mnt && [ "$(cat /mnt/count)" = $boots ] || write=BAD
  umount /mnt
  [ -d /sys/firmware/efi ] && fw=uefi || fw=bios
  disk=$(basename "$(dirname "$(readlink -f "/sys/class/block/$data")")")
  sector=$(($(cat "/sys/class/block/$disk/size") - 4096))
  point=$(dd if="/dev/$disk" bs=512 skip=$sector count=2 2>/dev/null | tr -d '\000' | sed -n 's/^point=//p')
  echo "TINY-BOOT-OK fw=$fw read=$read write=$write boots=$boots point=${point:-0}"
fi
sync; poweroff -f; sleep 5; reboot -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | sort | cpio -o -H newc -R 0:0 --quiet --reproducible) | zstd -q -19 >"$work/initrd"
