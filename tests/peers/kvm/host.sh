#!/bin/bash
# A libvirt host of one's own: it disturbs neither the machine's libvirt nor other such hosts that run at the same time.
#
#   tests/peers/kvm/host.sh start DIR [--tls] [--owner PID]   DIR is made, or exists and holds no host
#   tests/peers/kvm/host.sh stop DIR                          ends all that runs in it: guests, daemons, commands of `run`
#   tests/peers/kvm/host.sh run DIR COMMAND...                runs a command as a program of that host would see things
#   tests/peers/kvm/host.sh kill DIR                          SIGKILL to libvirtd alone; guests go on
#   tests/peers/kvm/host.sh libvirtd DIR                      starts libvirtd again after that
#
# The daemons run in a mount namespace in which libvirt's folders are those of DIR, so its sockets are in DIR too:
# programs outside connect to the URI in DIR/uri, and need no namespace. `--tls` lets it listen on 127.0.0.1 as well;
# that URI is in DIR/tls-uri. With `--owner` the host ends when that process does, however it ends.
#
#   DIR/run, etc, lib, cache, log    /run/libvirt, /etc/libvirt, /var/lib/libvirt, /var/cache/libvirt, /var/log/libvirt
#   DIR/pids                         holder, virtlogd, libvirtd: one process id in each
#   DIR/pki                          certificates; pki.sh says which
#
# What is shared with the machine: network, process ids, /tmp and every other file. Guests run as libvirt-qemu, with
# dynamic ownership, so disks, scratch files and sockets may lie in DIR and below it, but each folder must let that
# user in: DIR gets mode 711. No virtual network is defined. No cgroups and no namespaces per guest: names of guests would
# meet there, and a root folder that is no mount point (a chroot) has no namespaces. /dev/kvm is hidden, so that guests
# are emulated everywhere alike: of type 'qemu', never 'kvm'.
#
# libvirt asks QEMU once what it can do, which takes seconds. Those answers are taken from target/peers/kvm (or
# STILLFRAME_PEERS), where guest.sh puts them; libvirt notices by itself when they are of another QEMU.
#
# Needs root, and what `tests/peers/install.sh kvm` installs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
peers=${STILLFRAME_PEERS:-${CARGO_TARGET_DIR:-$here/../../../target}/peers}
# Seconds for a daemon to answer, and for processes to end.
deadline=${STILLFRAME_KVM_DEADLINE:-60}
# A socket's path has at most 107 bytes; the longest one that a test makes below DIR has about 60.
longest_dir=48

usage() { sed -n '4,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "$0: $*" >&2; exit 1; }

# Whether the process lives; one that has ended and waits for its parent to notice does not.
alive() {
    local stat
    [ -n "${1:-}" ] && stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    [ "${stat:0:1}" != Z ]
}

# When the process began, in ticks since the boot: with the id it names one process for good.
began() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    set -- $stat
    echo "${20}"
}

# within SECONDS COMMAND...: repeats the command until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}

pid_of() { cat "$dir/pids/$1" 2>/dev/null || true; }
answers() { timeout 10 virsh -q -c "$(cat "$dir/uri")" list >/dev/null 2>"$dir/log/virsh"; }
# The root folder too: a namespace is entered at its own, which is not that of a chroot.
in_host() { nsenter --target "$(pid_of holder)" --mount --root -- "$@"; }

# Every process of the host, known by its mount namespace: also those that nobody wrote down.
members() {
    local space process
    space=$(cat "$dir/namespace" 2>/dev/null) || return 0
    for process in /proc/[0-9]*; do
        if [ "$(readlink "$process/ns/mnt" 2>/dev/null)" = "$space" ] && alive "${process#/proc/}"; then
            echo "${process#/proc/}"
        fi
    done
}

# The configuration is the machine's own with the lines of ours at its end, which win.
configure() {
    cp -a /etc/libvirt/. "$dir/etc/"
    rm -rf "$dir"/etc/qemu/networks "$dir"/etc/qemu/autostart "$dir"/etc/qemu/*.xml "$dir"/etc/storage
    cat >>"$dir/etc/qemu.conf" <<CONF
security_driver = "none"
namespaces = []
cgroup_controllers = []
backup_tls_x509_cert_dir = "$dir/pki/nbd-server"
backup_tls_x509_verify = 1
CONF
    cat >>"$dir/etc/libvirtd.conf" <<CONF
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:$dir/log/libvirtd.log"
CONF
    echo "log_outputs = \"3:file:$dir/log/virtlogd.log\"" >>"$dir/etc/virtlogd.conf"
    echo "qemu+unix:///system?socket=$dir/run/libvirt-sock" >"$dir/uri"
}

# Lets libvirtd listen on a port that nobody holds now. Who takes it in between makes the start fail, and another is tried.
configure_tls() {
    local port=$((20000 + RANDOM % 12000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done
    sed -i '/^# stillframe: tls$/,$d' "$dir/etc/libvirtd.conf"
    cat >>"$dir/etc/libvirtd.conf" <<CONF
# stillframe: tls
listen_tls = 1
listen_tcp = 0
listen_addr = "127.0.0.1"
tls_port = "$port"
auth_tls = "none"
ca_file = "$dir/pki/server/cacert.pem"
cert_file = "$dir/pki/server/servercert.pem"
key_file = "$dir/pki/server/serverkey.pem"
CONF
    echo "qemu+tls://localhost:$port/system?pkipath=$dir/pki/client" >"$dir/tls-uri"
}

# The first process of the namespace: makes libvirt's folders those of DIR, then stays, so that the namespace does.
hold() {
    local owner=$1 since=$2 folder
    for folder in run etc; do mkdir -p "/$folder/libvirt"; mount --bind "$dir/$folder" "/$folder/libvirt"; done
    for folder in lib cache log; do mkdir -p "/var/$folder/libvirt"; mount --bind "$dir/$folder" "/var/$folder/libvirt"; done
    # A chroot may lack it; libvirt 11.3 starts no guest then, and gives no reason.
    if [ ! -e /sys/devices ]; then mount -t sysfs sysfs /sys; fi
    if [ -e /dev/kvm ]; then mount --bind /dev/null /dev/kvm; fi
    readlink /proc/self/ns/mnt >"$dir/namespace.new"
    mv "$dir/namespace.new" "$dir/namespace"
    if [ -z "$owner" ]; then exec sleep infinity; fi
    while [ "$(began "$owner" || true)" = "$since" ]; do sleep 0.5; done
    exec setsid "$0" stop "$dir" </dev/null >>"$dir/log/stop" 2>&1
}

# daemon NAME COMMAND...: starts it within the host, in a session of its own, and remembers its id.
daemon() {
    local name=$1
    shift
    setsid nsenter --target "$(pid_of holder)" --mount --root -- "$@" </dev/null >>"$dir/log/$name" 2>&1 &
    echo $! >"$dir/pids/$name"
    disown
}

start_libvirtd() {
    local listen=()
    if [ -e "$dir/tls-uri" ]; then listen=(--listen); fi
    daemon libvirtd libvirtd --config "$dir/etc/libvirtd.conf" --pid-file "$dir/run/libvirtd.pid" "${listen[@]}"
    ready() { answers || ! alive "$(pid_of libvirtd)"; }
    within "$deadline" ready && alive "$(pid_of libvirtd)"
}

start() {
    local owner= tls= since= attempt
    while [ $# -gt 0 ]; do
        case $1 in
        --tls) tls=yes; shift ;;
        --owner) [ $# -ge 2 ] || usage; owner=$2; shift 2 ;;
        *) usage ;;
        esac
    done
    [ "$(id -u)" -eq 0 ] || fail "needs root: namespaces and libvirtd do"
    command -v libvirtd >/dev/null || fail "there is no libvirtd: tests/peers/install.sh kvm installs it"
    [ ${#dir} -le $longest_dir ] || fail "$dir is too long for sockets in it: at most $longest_dir bytes"
    [ ! -e "$dir/pids" ] || fail "there is a host in $dir: stop it, and remove the folder"
    if [ -n "$owner" ]; then since=$(began "$owner") || fail "there is no process $owner"; fi
    mkdir -p "$dir"/{run,etc,lib/qemu,cache,log/qemu,pids}
    chmod 711 "$dir"
    setpriv --reuid libvirt-qemu --clear-groups test -x "$dir" || fail "libvirt-qemu may not enter $dir: a folder above it is private"
    "$here/pki.sh" "$dir/pki"
    configure
    if [ -d "$peers/kvm/capabilities" ]; then cp -a "$peers/kvm/capabilities/." "$dir/cache/"; fi
    # A root folder that is no mount point cannot be made private; then what is around it has to be private already.
    local propagation=private
    unshare --mount --propagation private true 2>/dev/null || propagation=unchanged
    setsid unshare --mount --propagation "$propagation" "$0" hold "$dir" "$owner" "$since" </dev/null >"$dir/log/holder" 2>&1 &
    echo $! >"$dir/pids/holder"
    disown
    if ! within 10 test -e "$dir/namespace"; then
        cat "$dir/log/holder" >&2
        fail "no mount namespace could be set up"
    fi
    daemon virtlogd virtlogd --config "$dir/etc/virtlogd.conf" --pid-file "$dir/run/virtlogd.pid"
    for attempt in 1 2 3; do
        if [ -n "$tls" ]; then configure_tls; fi
        if start_libvirtd; then return 0; fi
        [ -n "$tls" ] || break
    done
    tail -n 20 "$dir"/log/{libvirtd,libvirtd.log,virsh,virtlogd} 2>/dev/null >&2 || true
    stop
    fail "libvirtd does not answer in $dir after $attempt attempts"
}

stop() {
    local signal process
    none() { [ -z "$(members | grep -vx $$)" ]; }
    # Asked politely once; then again and again, because who lives may have started another meanwhile.
    for signal in TERM KILL KILL KILL; do
        for process in $(members); do
            if [ "$process" != $$ ]; then kill "-$signal" "$process" 2>/dev/null || true; fi
        done
        if within 5 none; then break; fi
    done
    if ! none; then fail "still running in $dir: $(members | tr '\n' ' ')"; fi
    rm -rf "$dir/pids" "$dir/namespace"
}

[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
shift 2
case $verb in
start) start "$@" ;;
stop) stop ;;
hold) hold "$@" ;;
run) [ $# -ge 1 ] || usage; in_host "$@" ;;
kill) kill -KILL "$(pid_of libvirtd)"; within 10 eval '! alive "$(pid_of libvirtd)"' ;;
libvirtd)
    if alive "$(pid_of libvirtd)"; then fail "libvirtd runs in $dir"; fi
    start_libvirtd || fail "libvirtd does not answer in $dir: $(tail -n 5 "$dir/log/libvirtd.log")"
    ;;
*) usage ;;
esac
