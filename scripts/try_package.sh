#!/usr/bin/env bash
# try_package.sh CHECKOUT PACKAGES ROOT: installs the packages of ./dev package in a Debian 12 of its own, made by
# debootstrap in the folder ROOT, builds the guide's programs there with nothing but what the packages bring, and runs
# them. As root; brings some 500 MB of Debian's packages.
set -euo pipefail
checkout=$1 packages=$2 root=$3
# Where this machine's packages come from, and how it gets there.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } |
  sed -nE 's#^(deb( \[[^]]*\])?|URIs:) +(https?://[^ ]+/debian)/?( .*)?$#\3#p' | head -1)
proxy=$(apt-config dump Acquire::http::Proxy | sed -nE 's#.*"(.*)";#\1#p' | head -1)
[[ -z $proxy ]] || export http_proxy=$proxy

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
end() { umount "$root/proc" "$root/dev/shm" 2>/dev/null || true; }
trap end EXIT

if [[ ! -f $root/.made ]]; then
  rm -rf "$root"
  debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}"
  touch "$root/.made"
fi
mkdir -p "$root/dev/shm" "$root/opt"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev/shm"
cp "$packages"/*.deb "$root/opt/"
cp /etc/resolv.conf "$root/etc/"
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
in_root apt-get update
in_root sh -c 'apt-get install -y --no-install-recommends g++ cmake ninja-build pkg-config /opt/*.deb'
rm -rf "$root/opt/programs"
cp -r "$checkout/docs/getting-started" "$root/opt/programs"
cp "$checkout/tests/docs/run_programs.sh" "$root/opt/"
in_root cmake -S /opt/programs -B /opt/programs/build -G Ninja
in_root cmake --build /opt/programs/build
in_root bash /opt/run_programs.sh /opt/programs/build/counter /opt/programs/build/table
in_root troupe --version
in_root sh -c 'dpkg --purge troupe libtroupe-dev >/dev/null; ! find /usr -name "*troupe*" | grep .'
echo "the packages install, build programs, run and go again"
