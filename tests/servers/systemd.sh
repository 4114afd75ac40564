#!/usr/bin/env bash
# A systemd of its own, as process 1 of namespaces of its own, that knows the units in FOLDER/units and no others:
#   systemd.sh FOLDER PATH…   (PATHs: what the units read, wherever it is)
# Run by `unshare --mount --pid --fork --ipc --uts --cgroup`. A whole system's units would clean up and set up what
# belongs to the machine; so there are none of them here, and nothing of the machine's files can be written to.
set -euo pipefail
[[ $$ == 1 ]] || { echo "not process 1 of a namespace of its own: not going on" >&2; exit 1; }
folder=$1
shift

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/kept /run/none /run/lock
number=0
for path in "$folder" "$@"; do
  mkdir "/run/kept/$number"
  mount --rbind "$path" "/run/kept/$number"
  number=$((number + 1))
done
# All read-only, with new, empty places for what is temporary.
while read -r target; do
  target=$(printf %b "$target")
  case $target in
    /run | /run/kept/0 | /proc* | /dev*) ;;
    *) mount -o remount,bind,ro "$target" || [[ ! -w $target ]] ;;
  esac
done < <(findmnt --raw --noheadings --output TARGET)
for place in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
number=0
for path in "$folder" "$@"; do
  if ((number == 0)) || [[ $path == /tmp/* || $path == /var/tmp/* || $path == /run/* ]]; then
    mkdir -p "$path"
    mount --rbind "/run/kept/$number" "$path"
  fi
  number=$((number + 1))
done
for place in / /etc /usr /var /var/lib /home /root "$@"; do
  [[ ! -w $place ]] || { echo "$place can be written to: not going on" >&2; exit 1; }
done
mount -t proc proc /proc
mount -o bind,ro /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/pts /mnt/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /mnt/pts
ln -s pts/ptmx /mnt/ptmx
for node in null zero full random urandom tty; do
  touch "/mnt/$node"
  mount --bind "/dev/$node" "/mnt/$node"
done
touch "$folder/kmsg" /mnt/kmsg
mount --bind "$folder/kmsg" /mnt/kmsg
mount --move /mnt /dev
# As the mounts of a whole system are: credentials come by one. What is shared here is private towards the machine.
mount --make-rshared /
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH="$folder/units" SYSTEMD_GENERATOR_PATH=/run/none \
  SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none SYSTEMD_LOG_TARGET=kmsg \
  /lib/systemd/systemd --system --unit=default.target --show-status=0
