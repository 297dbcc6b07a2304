#!/bin/bash
# boot.sh NAME LOWER -- become the parent of a systemd that boots as PID 1 of new namespaces, on an overlay over LOWER
# (one folder, or several with colons) that is gone when it ends. Needs root and util-linux; no systemd, no container
# engine. The process that runs this becomes unshare: its one child is the machine's PID 1 and dies with it.
set -euo pipefail
export NAME=$1 LOWER=$2 CGROUPS=/sys/fs/cgroup
if [ -e $CGROUPS/cgroup.controllers ]; then
    export HIERARCHIES=$CGROUPS
else
    HIERARCHIES=$(for folder in $CGROUPS/*/; do
        if [ -e "$folder/cgroup.procs" ] && [ ! -L "${folder%/}" ]; then echo "${folder%/}"; fi
    done)
    export HIERARCHIES
fi

# A cgroup of its own in each hierarchy before its namespace begins there: else limits do nothing.
for hierarchy in $HIERARCHIES; do
    mkdir -p "$hierarchy/$NAME"
    case $hierarchy in */cpuset)
        for file in cpus mems; do cat "$hierarchy/cpuset.$file" >"$hierarchy/$NAME/cpuset.$file"; done ;;
    esac
    echo $$ >"$hierarchy/$NAME/cgroup.procs"
done

# shellcheck disable=SC2016
inside='
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
cd /mnt/root
mount -t proc -o nosuid,nodev,noexec proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    set -- $node
    mknod -m 666 "dev/$1" c "$2" "$3"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
if [ "$HIERARCHIES" = "$CGROUPS" ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs sys/fs/cgroup
    for hierarchy in $HIERARCHIES; do
        kind=${hierarchy##*/}
        mkdir "sys/fs/cgroup/$kind"
        case $kind in
        unified) mount -t cgroup2 cgroup2 sys/fs/cgroup/unified ;;
        systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd ;;
        *) mount -t cgroup -o "$kind" cgroup "sys/fs/cgroup/$kind" ;;
        esac
    done
fi
echo "$NAME" >etc/hostname
hostname "$NAME"
ip link set lo up
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
# LoadCredential is empty without it.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 /lib/systemd/systemd --system
'
exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child=SIGKILL bash -c "$inside"
