#!/usr/bin/env bash
# tiny-disk.sh OUT.raw [bios|uefi|both]: makes a tiny disk that boots, checks itself, says so and powers off.
#
# On its serial console it prints one line that tests and the demo look for:
#
#   TINY-BOOT-OK fw=bios read=ok write=ok boots=1 point=0
#
#   fw     how it was started: bios or uefi
#   read   ok when the 4 MiB payload on partition 2 has its SHA-256, else BAD
#   write  ok when the boot counter went to the disk, else BAD
#   boots  the boot counter: how often this disk, with its writes, was booted
#   point  the number that change-disk.ts stamped into the reserved range, 0 when never stamped
#
# No root, no loop device and no mount is needed. Environment:
#   OS=grub     (default) GRUB alone is the system: boots in a second under emulation, I/O through the firmware
#   OS=linux    a Linux kernel with a BusyBox initramfs: real drivers; its package comes through apt-get download
#   DISK_MIB    size of the disk (64)
#   DATA_MIB    size of the payload (4)
#   KERNEL_DEB  kernel package for OS=linux (linux-image-cloud-amd64)
#   CACHE       where the kernel package is kept (~/.cache/tiny-disk)
#
# The disk: MBR (bios) or GPT (uefi, both); p1 FAT, with GRUB's files; p2 ext2 or ext4, with the payload; then the
# reserved range, 1 MiB that starts 2 MiB before the end of the disk and belongs to no partition.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

usage="usage: $0 OUT.raw [bios|uefi|both]"
out=${1:?$usage} mode=${2:-both} os=${OS:-grub} disk_mib=${DISK_MIB:-64} data_mib=${DATA_MIB:-4}
case $mode in bios | uefi | both) ;; *) echo "$usage" >&2; exit 2 ;; esac
case $os in grub | linux) ;; *) echo "$0: OS is grub or linux, not $os" >&2; exit 2 ;; esac

missing=()
need() { # need COMMAND-OR-FILE PACKAGE
  if [[ $1 == /* ]]; then [[ -e $1 ]]; else command -v "$1" >/dev/null; fi || missing+=("$2")
}
need sfdisk fdisk; need mkfs.fat dosfstools; need mcopy mtools; need mke2fs e2fsprogs; need openssl openssl
need grub-mkimage grub-common; need grub-editenv grub-common
[[ $mode == uefi ]] || need /usr/lib/grub/i386-pc/boot.img grub-pc-bin
[[ $mode == bios ]] || need /usr/lib/grub/x86_64-efi/kernel.img grub-efi-amd64-bin
if [[ $os == linux ]]; then
  need busybox busybox-static; need cpio cpio; need zstd zstd; need xz xz-utils; need modinfo kmod; need strip binutils
fi
if ((${#missing[@]})); then
  packages=$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')
  echo "$0: missing programs; on Debian or Ubuntu: apt-get install ${packages% }" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
boot_mib=4
[[ $os == grub ]] || boot_mib=24
data_at=$((1 + boot_mib)) data_size=$((disk_mib - 1 - boot_mib - 2)) stamp_sector=$(((disk_mib - 2) * 2048))
((data_size > data_mib + 2)) || { echo "$0: DISK_MIB=$disk_mib is too small for DATA_MIB=$data_mib" >&2; exit 2; }

# shellcheck source=/dev/null
[[ $os == grub ]] || . "$(dirname "$0")/tiny-linux.sh"

# ── partitions ──
rm -f "$out"
truncate -s "${disk_mib}M" "$out"
if [[ $mode == bios ]]; then
  sfdisk -q "$out" <<TABLE
label: dos
label-id: 0x54494e59
start=2048, size=$((boot_mib * 2048)), type=c, bootable
start=$((data_at * 2048)), size=$((data_size * 2048)), type=83
TABLE
else # the BIOS boot partition (p3) lies in the gap before 1 MiB
  sfdisk -q "$out" <<TABLE
label: gpt
label-id: 54494E59-0000-4000-8000-000000000000
first-lba: 34
1: start=2048, size=$((boot_mib * 2048)), type=U, name=ESP
2: start=$((data_at * 2048)), size=$((data_size * 2048)), type=L, name=data
$([[ $mode == uefi ]] || echo "3: start=64, size=1984, type=21686148-6449-6E6F-744E-656564454649, name=biosboot")
TABLE
fi

# ── p1: FAT with GRUB's configuration ──
esp=$work/esp.img
truncate -s "${boot_mib}M" "$esp"
mkfs.fat -n TINYBOOT -i 54494e59 "$esp" >/dev/null
mmd -i "$esp" ::/grub ::/EFI ::/EFI/BOOT
if [[ $os == linux ]]; then
  cat >"$work/grub.cfg" <<'CFG'
serial --unit=0 --speed=115200
terminal_output serial
linux /vmlinuz console=ttyS0,115200 quiet panic=-1 nokaslr
initrd /initrd
boot
CFG
  mcopy -i "$esp" "$work/vmlinuz" ::/vmlinuz
  mcopy -i "$esp" "$work/initrd" ::/initrd
else
  # GRUB cannot count: the next number is the one after the last one in a list. The stamp is an environment block
  # that lies in sectors instead of a file.
  cat >"$work/grub.cfg" <<CFG
serial --unit=0 --speed=115200
terminal_output serial
search --no-floppy --label tinydata --set=data
regexp --set=1:disk '^([^,]*)' "\$data"
if [ "\$grub_platform" = efi ]; then set fw=uefi; else set fw=bios; fi
if hashsum --hash sha256 --check (\$data)/TINY-SUM --prefix (\$data); then set read=ok; else set read=BAD; fi
set write=BAD
load_env -f (\$root)/grub/grubenv boots
set last=
for n in $(seq -s' ' 1 99); do
  if [ "\$boots" = "\$last" -a "\$write" = BAD ]; then set boots=\$n; set write=ok; fi
  set last=\$n
done
if save_env -f (\$root)/grub/grubenv boots; then true; else set write=BAD; fi
set point=0
load_env -f (\$disk)$stamp_sector+2 point
echo
echo "TINY-BOOT-OK fw=\$fw read=\$read write=\$write boots=\$boots point=\$point"
halt
CFG
  grub-editenv "$work/grubenv" create
  mcopy -i "$esp" "$work/grubenv" ::/grub/grubenv
fi
mcopy -i "$esp" "$work/grub.cfg" ::/grub/grub.cfg
cat >"$work/early.cfg" <<'CFG'
search --no-floppy --label TINYBOOT --set=root
configfile ($root)/grub/grub.cfg
CFG
modules=(part_gpt part_msdos fat ext2 search search_label configfile normal serial terminal linux echo boot test
  regexp hashsum gcry_sha256 loadenv halt true)
if [[ $mode != bios ]]; then
  grub-mkimage -O x86_64-efi -o "$work/BOOTX64.EFI" -c "$work/early.cfg" -p /grub "${modules[@]}"
  mcopy -i "$esp" "$work/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
fi
dd if="$esp" of="$out" bs=1M seek=1 conv=notrunc,sparse status=none

# ── p2: the payload and its sum, put there without mounting ──
mkdir "$work/data"
{
  echo TINY-PAYLOAD
  openssl enc -aes-128-ctr -nosalt -K 00000000000000000000000000000000 -iv 00000000000000000000000000000000 \
    -in /dev/zero 2>/dev/null || true
} | head -c $((data_mib << 20)) >"$work/data/payload"
(cd "$work/data" && sha256sum payload >TINY-SUM)
truncate -s "${data_size}M" "$work/p2"
filesystem=ext2
[[ $os == grub ]] || filesystem=ext4
mke2fs -q -F -t $filesystem -L tinydata -U 54494e59-0000-4000-8000-000000000002 -E root_owner=0:0 -d "$work/data" "$work/p2"
dd if="$work/p2" of="$out" bs=1M seek=$data_at conv=notrunc,sparse status=none

# ── BIOS start: boot.img into the MBR's code area, core.img behind it ──
little_endian() { # little_endian NUMBER: 8 bytes
  local hex i text=
  hex=$(printf '%016x' "$1")
  for ((i = 14; i >= 0; i -= 2)); do text+="\\x${hex:i:2}"; done
  printf '%b' "$text"
}
if [[ $mode != uefi ]]; then
  grub-mkimage -O i386-pc -o "$work/core.img" -c "$work/early.cfg" -p /grub biosdisk "${modules[@]}"
  core_at=1
  [[ $mode == bios ]] || core_at=64
  (($(stat -c%s "$work/core.img") <= (2048 - core_at) * 512)) || { echo "$0: GRUB's core image is too big" >&2; exit 1; }
  cp /usr/lib/grub/i386-pc/boot.img "$work/boot.img"
  little_endian $core_at | dd of="$work/boot.img" bs=1 seek=$((0x5c)) conv=notrunc status=none
  little_endian $((core_at + 1)) | dd of="$work/core.img" bs=1 seek=$((0x1f4)) conv=notrunc status=none
  # Two NOPs over the jump that would trust the BIOS' drive number only for floppies, as grub-install does.
  printf '\x90\x90' | dd of="$work/boot.img" bs=1 seek=$((0x66)) conv=notrunc status=none
  dd if="$work/boot.img" of="$out" bs=1 count=440 conv=notrunc status=none
  dd if="$work/core.img" of="$out" bs=512 seek=$core_at conv=notrunc status=none
fi
echo "$out: $disk_mib MiB, $(du -k "$out" | cut -f1) KiB used; OS=$os, boots by $mode"
