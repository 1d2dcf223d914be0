#!/usr/bin/env bash
# Runs the crash soak on a real file system in an image file, and takes away at each kill what was
# not on its disk: what a power cut leaves.
#
#     cargo build --release --example crash_soak
#     sudo CRASH_SOAK=$PWD/target/release/examples/crash_soak \
#         examples/crash_soak/power_cut.sh [--fs ext4|xfs|btrfs] [--lossy] [OPTIONS OF crash_soak]
#
# The image is mounted through a loop device. What the file system has submitted to the device is
# in the image; what is only in its page cache is not. At a cut, the image is copied as it is,
# the mount thrown away, and the copy mounted in its place, so that the journal is replayed.
# Before the copy, some pages of the log's files are written back by themselves and others not,
# as a kernel does when it likes.
#
# With --lossy the disk has a volatile write cache as well, and the power is cut while the process
# is at work: of what was written since the last flush, any part is lost, see lossy_disk.py.
#
# It needs root, loop devices, and the mkfs of the file system; --lossy needs FUSE and Python.
# Where one of them is missing it says so and ends with status 77. CRASH_SOAK names the program;
# otherwise it is built, by a cargo that root must have.
set -euo pipefail

# The page cache of the loop device's backing file is what the device holds.
attach() {
    losetup --find --show "$1/disk/image" > "$1/loop"
    mount -t "$(cat "$1/fs")" -o noatime "$(cat "$1/loop")" "$1/mnt"
}

detach() {
    umount "$1/mnt"
    losetup --detach "$(cat "$1/loop")"
}

# Reading with `nocache` drops the pages that were read, and writes back dirty ones first:
# posix_fadvise with POSIX_FADV_DONTNEED does.
write_back_some() {
    local file
    for file in "$1"/mnt/soak/log/*.seg; do
        if [ $((RANDOM % 3)) -gt 0 ]; then
            # Segments have up to 64 pages. One that was just deleted is not missed.
            dd if="$file" of=/dev/null bs=4096 iflag=nocache status=none \
                skip=$((RANDOM % 64)) count=$((1 + RANDOM % 8)) || [ ! -e "$file" ]
        fi
    done 2> /dev/null
}

# Tells the lossy disk something, and notes what it answers.
ask() {
    local answer
    exec 8<> "$1/answer"
    echo "$2" > "$1/control"
    read -r -t 20 -u 8 answer
    exec 8<&-
    echo "$answer"
}

case ${1-} in
    cut) # While the process is at work.
        if [ $((RANDOM % 3)) -eq 0 ]; then
            write_back_some "$2"
        fi
        ask "$2" cut >> "$2/cuts"
        exit
        ;;
    restore) # After it is dead.
        # Whatever this still writes is forgotten.
        detach "$2"
        [ "$(ask "$2" restore)" = restored ]
        attach "$2"
        exit
        ;;
    copy)
        if [ $((RANDOM % 2)) -eq 0 ]; then
            write_back_some "$2"
        fi
        cp --sparse=always "$2/disk/image" "$2/disk/copy"
        # Whatever this still writes goes to an image that nobody will look at.
        detach "$2"
        mv "$2/disk/copy" "$2/disk/image"
        attach "$2"
        echo copied >> "$2/cuts"
        exit
        ;;
esac

skip() {
    echo "skipped: $1"
    exit 77
}

fs=ext4 lossy=no
while :; do
    case ${1-} in
        --fs) fs=$2 && shift 2 ;;
        --lossy) lossy=yes && shift ;;
        *) break ;;
    esac
done
[ "$(id -u)" = 0 ] || skip "only root may mount"
command -v losetup > /dev/null || skip "there is no losetup"
command -v "mkfs.$fs" > /dev/null || skip "there is no mkfs.$fs"
grep -qw "$fs" /proc/filesystems || skip "the kernel has no $fs"
if [ "$lossy" = yes ]; then
    [ -c /dev/fuse ] || skip "there is no FUSE"
    command -v python3 > /dev/null || skip "there is no Python"
fi

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${CRASH_SOAK-}" ]; then
    cargo build --quiet --release --example crash_soak --manifest-path "$here/../../Cargo.toml"
    CRASH_SOAK=${CARGO_TARGET_DIR:-$here/../../target}/release/examples/crash_soak
fi

# The image, its copy, and what a lossy disk remembers.
place=${POWER_CUT_TMPDIR:-/dev/shm} needed=262144
[ "$fs" = ext4 ] || needed=1048576
free=$(df --output=avail -k "$place" | tail -n 1)
[ "$free" -ge "$needed" ] || skip "$place has $free KiB free, and $needed are needed (POWER_CUT_TMPDIR)"

work=$(mktemp -d "$place/power-cut-XXXXXX")
disk=
clean_up() {
    umount -l "$work/mnt" 2> /dev/null || true
    if [ -s "$work/loop" ]; then
        losetup --detach "$(cat "$work/loop")" 2> /dev/null || true
    fi
    if [ "${keep-no}" = yes ]; then
        # From a lossy disk as well, before it is gone.
        cp --sparse=always "$work/disk/image" "$work/found" || true
        echo "the image is kept in $work/found"
    fi
    if [ -n "$disk" ]; then
        umount -l "$work/disk" 2> /dev/null || true
        kill "$disk" 2> /dev/null || true
    fi
    if [ "${keep-no}" = no ]; then
        rm -rf "$work"
    fi
}
trap clean_up EXIT
# Whoever stops it has no use for what it found so far.
trap 'keep=no; exit 130' INT TERM

echo "$fs" > "$work/fs"
mkdir "$work/mnt" "$work/disk"
: > "$work/cuts"
image=$work/disk/image
if [ "$lossy" = yes ]; then
    image=$work/image
fi
# XFS gives up on a directory block of which a power cut has left half (Linux 6.18: "Metadata CRC
# error"), so its disk, and that of btrfs, write 4 KiB as a whole.
unit=4096
[ "$fs" != ext4 ] || unit=512
case $fs in
    ext4) truncate -s 64M "$image" && mkfs.ext4 -q -F "$image" ;;
    xfs) truncate -s 320M "$image" && mkfs.xfs -q "$image" ;;
    btrfs) truncate -s 256M "$image" && mkfs.btrfs -q "$image" ;;
    *) skip "no way to make $fs is known here" ;;
esac
if [ "$lossy" = yes ]; then
    mkfifo "$work/control" "$work/answer"
    python3 "$here/lossy_disk.py" "$work/disk" "$image" "$work/control" "$work/answer" \
        "$RANDOM" "$unit" &
    disk=$!
    [ "$(timeout 20 head -n 1 "$work/answer")" = mounted ] || skip "FUSE cannot be mounted"
fi
attach "$work" || skip "cannot mount $fs through a loop device"

export ACKLINE_SOAK_DIRECTORY=$work/mnt/soak
export ACKLINE_POWER_CUT_HOOK="'$here/power_cut.sh' copy '$work'"
options=()
if [ "$lossy" = yes ]; then
    export ACKLINE_POWER_CUT_HOOK="'$here/power_cut.sh' restore '$work'"
    options=(--cut "'$here/power_cut.sh' cut '$work'")
fi
keep=yes
status=0
"$CRASH_SOAK" "${options[@]}" "$@" || status=$?
echo "$(wc -l < "$work/cuts") power cuts of $fs, status $status"
if [ "$lossy" = yes ]; then
    # The disk answers each cut with how it chose, and the units that it kept and lost.
    awk '{ n[$1]++; kept += $2; lost += $3; some += ($2 + $3 > 0) }
        END { for (how in n) printf "%s %d, ", how, n[how];
              printf "%d with unflushed units: %d kept, %d lost\n", some, kept, lost }' \
        "$work/cuts"
fi
[ "$status" != 0 ] || keep=no
exit "$status"
