#!/usr/bin/env bash
# guest.sh FOLDER: puts vmlinuz and initrd there, of a guest whose four programs write to /dev/vda and read it back for
# ever, each in a quarter of it. On its serial console:
#
#   GUEST-OK program=2 rounds=40        so many rounds are over: each written, flushed and read back
#   GUEST-WRONG program=2 …             one was not as it must be
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
work=${1:?usage: guest.sh FOLDER}
# shellcheck source=/dev/null
. "$(dirname "$0")/../../images/tiny-linux.sh"
for applet in seq head rm; do ln -sf busybox "$root/bin/$applet"; done

cat >"$root/init" <<'INIT'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko" 2>/dev/null; done </modules/order
while [ ! -b /dev/vda ]; do sleep 0.1; done
quarter=$(($(cat /sys/class/block/vda/size) / 128 / 4))
dd if=/dev/urandom of=/pattern bs=64k count=128 2>/dev/null

sum() { dd if="$1" bs=64k skip="$2" count="$3" $4 2>/dev/null | sha256sum; }
program() {
  round=0 before=
  while :; do
    round=$((round + 1))
    at=$(($1 * quarter + (round * 37 + $1) % (quarter - 16))) count=$((1 + (round * 7 + $1) % 16)) from=$((round * 13 % 112))
    dd if=/pattern of=/dev/vda bs=64k skip=$from seek=$at count=$count oflag=direct conv=notrunc,fsync 2>/error$1 ||
      echo "GUEST-WRONG program=$1 round=$round cannot write: $(cat /error$1)"
    [ "$(sum /pattern $from $count)" = "$(sum /dev/vda $at $count iflag=direct)" ] ||
      echo "GUEST-WRONG program=$1 round=$round reads other bytes at $at than it wrote"
    echo "GUEST-OK program=$1 rounds=$round"
  done
}
for n in 0 1 2 3; do program $n & done
echo GUEST-BEGINS
wait
INIT
chmod +x "$root/init"
(cd "$root" && find . | sort | cpio -o -H newc -R 0:0 --quiet) | zstd -q -3 -f -o "$work/initrd"
