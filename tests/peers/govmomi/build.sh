#!/bin/sh
# Builds the foreign vSphere server for the tests. Usage: build.sh OUTPUT
# Needs Debian (or a relative) and its govmomi library; installs the two packages when they are absent and we are root.
# Does nothing when OUTPUT is newer than the source.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
output=${1:?usage: build.sh OUTPUT}
library=/usr/share/gocode/src/github.com/vmware/govmomi/simulator

if [ -x "$output" ] && [ "$output" -nt "$here/main.go" ]; then
    exit 0
fi

if ! command -v go >/dev/null || [ ! -d "$library" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -q
    apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends golang-go golang-github-vmware-govmomi-dev
fi

mkdir -p "$(dirname "$output")"
output=$(cd "$(dirname "$output")" && pwd)/$(basename "$output")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$here"
GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$scratch" GOFLAGS=-buildvcs=false go build -o "$output" .
