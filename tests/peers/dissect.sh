#!/bin/bash
# Fetches volumes, tables and a registry hive that others made: test data of dissect's readers.
#
#   tests/peers/dissect.sh PEERS    writes PEERS/dissect/NAME/, NAME being regf, ntfs, fat or volume
#
# They come inside source packages of PyPI, under AGPL-3.0-or-later. So they are fetched, never committed; of the packages
# nothing is installed or run. What was packed by gzip is unpacked, and zeros take no space. Of `volume` only the partition
# tables are kept. What is there already is kept, so a second run takes a moment.
set -euo pipefail

peers=${1:?the folder of the peers}
mkdir -p "$peers/dissect"
peers=$(cd "$peers" && pwd)

# Name, version, folder of the data in the package, SHA-256 of the package.
packages=(
    "regf   3.14 tests/_data      0df90d4e68453dae1e75a50bd343d84ffc413f4e65d527c05f657b7ea9f30f33"
    "ntfs   3.16 tests/_data      ce93136796aa9471f3aa28855b4b3c3e8132f9f97bc17a2f5494e0a660c190dd"
    "fat    3.13 tests/data       f9630c3ae66fb058aabdbaa2fb92cecc7e4ba5c8d676dd39178ee911258e8448"
    "volume 3.18 tests/_data/disk 79647740f1a4ba360afa9f3f77620ed016b0026a44386b3cdc31fddcf0142d9c"
)

# sdist NAME VERSION SHA256 FOLDER: the package, and nothing else, in the folder. pip looks into it, which takes the build
# tools that it names; those come from PyPI too and are thrown away.
sdist() {
    local python=python3
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        /usr/bin/python3 -m venv "$4/venv"
        python=$4/venv/bin/python
    fi
    printf 'dissect.%s==%s --hash=sha256:%s\n' "$1" "$2" "$3" >"$4/requirements.txt"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary "dissect.$1" --require-hashes \
        --dest "$4" -r "$4/requirements.txt"
}

# fetch NAME VERSION DATA SHA256
fetch() {
    local name=$1 version=$2 data=$3 sha256=$4 done work file
    done=$peers/dissect/$name
    if [ "$(cat "$done/VERSION" 2>/dev/null)" = "$version $sha256" ]; then return 0; fi
    work=$(mktemp -d "$peers/dissect/.$name.XXXXXX")
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$work'" EXIT
    sdist "$name" "$version" "$sha256" "$work"
    echo "$sha256  $work/dissect_$name-$version.tar.gz" | sha256sum --quiet --check
    mkdir "$work/data"
    tar -xzf "$work/dissect_$name-$version.tar.gz" -C "$work/data" --no-same-owner \
        --strip-components="$(tr -cd / <<<"/$data/" | wc -c)" "dissect_$name-$version/$data"
    find "$work/data" -type f -name '*.gz' | while read -r file; do
        gzip -dc "$file" | dd of="${file%.gz}" bs=64K iflag=fullblock conv=sparse status=none
        truncate -s "$(gzip -dc "$file" | wc -c)" "${file%.gz}" # zeros at the end
        rm "$file"
    done
    echo "$version $sha256" >"$work/data/VERSION"
    chmod -R u=rwX,go=rX "$work/data"
    rm -rf "$done"
    mv "$work/data" "$done"
    rm -rf "$work"
    trap - EXIT
}

for package in "${packages[@]}"; do
    # shellcheck disable=SC2086 # words of a line
    fetch $package
done
