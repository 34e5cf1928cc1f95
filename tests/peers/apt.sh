# shellcheck shell=bash
# How do Debian packages get here without touching /etc/apt? To be sourced.
#
# Plain `apt-get install qemu-system-x86` fails on machines whose qemu-utils came from bookworm-backports:
# the two must be of one suite. So apt gets a list of its own, with backports in it, under target/apt. Backports have
# a low priority by their own declaration: only packages asked for with `apt_backports` come from there.

: "${target:?the target folder must be set before apt.sh is sourced}"

apt_options=(
    -o "Dir::Etc::sourcelist=/dev/null"
    -o "Dir::Etc::sourceparts=$target/apt/parts"
    -o "Dir::State::lists=$target/apt/lists"
    -o "Dir::Cache=$target/apt/cache"
    -o "APT::Sandbox::User=root"
    -o "DPkg::Lock::Timeout=300"
    -o "Acquire::Retries=3"
    -o "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
    -o "Dpkg::Use-Pty=0"
)

# Runs apt-get; what it says goes to target/apt/log, and is shown only when it fails.
apt_quietly() {
    local status=0
    mkdir -p "$target/apt"
    apt-get "${apt_options[@]}" -q "$@" >"$target/apt/log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then tail -n 30 "$target/apt/log" >&2; fi
    return "$status"
}

# Prints the Debian mirror that this machine uses: the first one named, which is not the security one.
apt_mirror() {
    local mirror=
    if [ -e /etc/apt/sources.list.d/debian.sources ]; then
        mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources)
    elif [ -e /etc/apt/sources.list ]; then
        mirror=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' \
            /etc/apt/sources.list)
    fi
    echo "${mirror:-http://deb.debian.org/debian}"
}

# Writes the private list and fetches the indexes, unless that was done in the last twelve hours.
apt_prepare() {
    local apt=$target/apt key=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    if [ -n "$(find "$apt/updated" -mmin -720 2>/dev/null)" ]; then return 0; fi
    mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/cache/archives/partial"
    mirror=$(apt_mirror)
    if [ -e /etc/apt/sources.list.d/debian.sources ]; then
        cp /etc/apt/sources.list.d/debian.sources "$apt/parts/"
    elif [ -s /etc/apt/sources.list ]; then
        cp /etc/apt/sources.list "$apt/parts/debian.list"
    else
        echo "deb [signed-by=$key] $mirror bookworm main" >"$apt/parts/debian.list"
    fi
    echo "deb [signed-by=$key] $mirror bookworm-backports main" >"$apt/parts/backports.list"
    apt_quietly update
    touch "$apt/updated"
}

# Prints those of the named packages that are not installed.
apt_missing() {
    local package status
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        if [ "$status" != installed ]; then echo "$package"; fi
    done
}

# apt_install OPTIONS... -- PACKAGES...: when one of them is missing, installs them all in one call, as root.
apt_install() {
    local options=() missing
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    mapfile -t missing < <(apt_missing "$@")
    if [ "${#missing[@]}" -eq 0 ]; then return 0; fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "Not installed, and only root can install: ${missing[*]}" >&2
        return 1
    fi
    apt_prepare
    echo "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt_quietly "${options[@]}" install -y --no-install-recommends "$@"
}

# Packages of Debian 12 itself.
apt_stable() { apt_install -- "$@"; }

# Packages of the qemu family. All that are named come from one suite, so what is there already may be raised to it.
apt_backports() { apt_install -t bookworm-backports -- "$@"; }

# apt_download FOLDER PACKAGES...: the .deb files only, nothing installed; those that lie there are kept.
apt_download() {
    local folder=$1 package wanted=()
    shift
    mkdir -p "$folder"
    for package in "$@"; do
        if ! compgen -G "$folder/${package}_*.deb" >/dev/null; then wanted+=("$package"); fi
    done
    if [ "${#wanted[@]}" -eq 0 ]; then return 0; fi
    apt_prepare
    (cd "$folder" && apt_quietly download "${wanted[@]}")
}

# Prints the package that a metapackage of the stable suite stands for: `linux-image-cloud-amd64` for example. With
# backports listed it has two versions; the candidate is the stable one. awk reads to the end: apt-cache would die of SIGPIPE.
apt_stands_for() {
    apt_prepare >&2
    apt-cache "${apt_options[@]}" --no-all-versions show "$1" |
        awk '/^Depends:/ && !found++ { sub(/,$/, "", $2); print $2 }'
}
