#!/bin/sh
# Builds what the harness boots, from Debian packages alone: `image.sh FOLDER`, as root.
#
#   root.img                Debian 13 arm64 with systemd, ext4, modules of both kernels
#   linux-6.1, linux-6.12   kernels of Debian 12 and 13 (the flavour for virtual machines)
#   initrd-6.1, initrd-6.12 busybox and the modules that find the disk
#
# The machine's own packages, architectures and lists stay as they are: the packages go through folders of their
# own. Their scripts run in emulation (qemu-user), for which binfmt_misc is mounted in a mount namespace of this
# script's own where the machine has not mounted it; that it runs ARM64 programs stays known to the kernel until the
# next boot, as after installing qemu-user-static.
set -eu

if [ "${2-}" != inside ]; then
    exec unshare --mount --propagation private sh "$0" "$1" inside
fi

out=$1
guest=$(dirname "$(readlink -f "$0")")/guest
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$work"
mkdir -p "$out"

say() { echo "image: $*" >&2; }

# The mirror and the proxy of the machine's own apt, where it is a Debian.
mirror=$(apt-get indextargets --format '$(ORIGIN) $(SITE)' 'Identifier: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
mirror=${TIDEGATE_DEBIAN_MIRROR:-$mirror}
if [ -z "$mirror" ]; then
    say "this machine's apt has no Debian mirror: name one in TIDEGATE_DEBIAN_MIRROR"
    exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|ftp)::' >"$work/acquire.conf" || true

emulate() {
    if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    fi
    if [ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]; then
        # As qemu-user-static's own file in /usr/lib/binfmt.d has it; F opens the interpreter now, for use in roots.
        cat /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register
    fi
}

# kernel SUITE NAME: the newest kernel of a suite, below $work/NAME.
kernel() {
    suite=$1 name=$2 apt=$work/apt-$1
    say "Linux $name of Debian $suite"
    mkdir -p "$apt/etc/apt/apt.conf.d" "$apt/etc/apt/preferences.d" "$apt/etc/apt/trusted.gpg.d" \
        "$apt/var/lib/apt/lists/partial" "$apt/var/cache/apt/archives/partial" "$apt/var/lib/dpkg"
    : >"$apt/var/lib/dpkg/status"
    echo "deb [arch=arm64 signed-by=$keyring] $mirror $suite main" >"$apt/etc/apt/sources.list"
    cat >"$apt/apt.conf" - "$work/acquire.conf" <<CONF
Dir "$apt";
Dir::State::status "$apt/var/lib/dpkg/status";
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
    export APT_CONFIG="$apt/apt.conf"
    apt-get update --quiet=2
    package=$(apt-cache depends linux-image-cloud-arm64 | awk '/Depends: linux-image/ { print $2; exit }')
    (cd "$apt" && apt-get download --quiet=2 "$package" busybox-static)
    unset APT_CONFIG
    dpkg-deb --extract "$apt/$package"_*.deb "$work/$name"
    dpkg-deb --extract "$apt"/busybox-static_*.deb "$work/$name/busybox"
    # Debian 12's kernel package still has its modules in /lib.
    if [ -d "$work/$name/lib" ]; then mv "$work/$name/lib/modules" "$work/$name/usr/lib/"; fi
    version=${package#linux-image-}
    depmod --basedir "$work/$name/usr" "$version"
    initrd "$name" "$version"
    cp "$work/$name/boot/vmlinuz-$version" "$out/linux-$name"
}

# initrd NAME VERSION: busybox, and the modules without which neither the disk nor the agent's port is there.
initrd() {
    name=$1 version=$2 tree=$work/initrd-$1
    mkdir -p "$tree/bin" "$tree/modules" "$tree/dev" "$tree/proc" "$tree/root"
    cp "$work/$name/busybox/usr/bin/busybox" "$tree/bin/busybox" 2>/dev/null ||
        cp "$work/$name/busybox/bin/busybox" "$tree/bin/busybox"
    install -m 755 "$guest/initrd-init" "$tree/init"
    for wanted in virtio_pci virtio_blk virtio_console virtio_net; do
        modprobe --dirname "$work/$name/usr" --set-version "$version" --show-depends "$wanted"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        file=$(basename "$module" .xz)
        case $module in
        *.xz) xz -dc "$module" >"$tree/modules/$file" ;;
        *) cp "$module" "$tree/modules/$file" ;;
        esac
        echo "$file" >>"$tree/modules/order"
    done
    (cd "$tree" && find . | cpio --create --format newc --quiet) | gzip -1 >"$out/initrd-$name"
}

root() {
    say "Debian trixie arm64, in emulation (some three minutes)"
    # What a small gateway has, and no more: apt, systemd, the network's tools, a broker and nft to measure beside.
    packages=base-files,base-passwd,bash,coreutils,dash,debianutils,diffutils,dpkg,apt,findutils,grep,sed,gzip,tar
    packages=$packages,hostname,init-system-helpers,libc-bin,login,passwd,mount,util-linux,mawk,perl-base
    packages=$packages,systemd-sysv,udev,kmod,iproute2,iputils-ping,nftables,procps,e2fsprogs,openssl,mosquitto,mosquitto-clients
    set --
    while read -r line; do set -- "$@" --aptopt="$line"; done <"$work/acquire.conf"
    mmdebstrap --quiet --mode=root --arch=arm64 --variant=custom --skip=check/empty,check/qemu \
        --include="$packages" "$@" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt=force-unsafe-io \
        trixie "$work/root" "deb [signed-by=$keyring] $mirror trixie main"
    rm -f "$work/root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"

    install -m 755 "$guest/agent" "$work/root/usr/local/sbin/vm-agent"
    install -m 755 "$guest/init" "$work/root/usr/local/sbin/vm-init"
    install -m 644 "$guest/vm-agent.service" "$work/root/etc/systemd/system/"
    install -m 644 "$guest/eth0.network" "$work/root/etc/systemd/network/"
    mkdir -p "$work/root/etc/systemd/system/sysinit.target.wants" "$work/root/usr/lib/modules"
    ln -s ../vm-agent.service "$work/root/etc/systemd/system/sysinit.target.wants/"
    echo gateway >"$work/root/etc/hostname"
    echo '127.0.0.1 localhost gateway' >"$work/root/etc/hosts"
    # Not a first boot: that one sets up what Debian's packages have set up already.
    echo 2d1e6a7f5c0b4e2f9a3d8c7b6a594837 >"$work/root/etc/machine-id"
    systemctl --root "$work/root" enable --quiet systemd-networkd.service
    systemctl --root "$work/root" disable --quiet mosquitto.service systemd-networkd-wait-online.service
    # What a gateway without screen and firmware does not need, and emulation waits for.
    systemctl --root "$work/root" mask --quiet getty@.service serial-getty@.service getty-static.service \
        apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
        e2scrub_reap.service modprobe@drm.service modprobe@fuse.service modprobe@efi_pstore.service \
        modprobe@configfs.service sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
        sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount systemd-pstore.service \
        systemd-journal-catalog-update.service proc-sys-fs-binfmt_misc.automount systemd-network-generator.service
    for name in 6.1 6.12; do cp -a "$work/$name/usr/lib/modules/." "$work/root/usr/lib/modules/"; done
    truncate --size 1G "$work/root.img"
    mke2fs -q -F -t ext4 -d "$work/root" -L root "$work/root.img"
    cp --sparse=always "$work/root.img" "$out/root.img"
}

emulate
kernel bookworm 6.1
kernel trixie 6.12
root
say "done"
