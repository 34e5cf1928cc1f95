# shellcheck shell=sh
# shellcheck disable=SC2034 # used by those that source it
# What the commands of this module share: settings, the image's directory, its removal. To be sourced.

# File names are bytes.
LC_ALL=C
export LC_ALL

newline='
'
blank=' 	'
cr=$(printf '\r')
keys='BACKUPROOT HOST USERNAME PASSWORD_FILE THUMBPRINT CA_FILE TRANSPORT_MODE VMDK_FORMAT VM_LOOKUP_METHOD PREEXISTING_MOUNTPOINT'
program=${STILLFRAME_PROGRAM:-stillframe}

# say TEXT: one line for people.
say() { printf '%s\n' "$1" >&2; }

# die CODE TEXT: the cause, once and last.
die() {
    say "Error: $2"
    exit "$1"
}

lower() { printf '%s' "$1" | tr '[:upper:]' '[:lower:]'; }

# Sets $trimmed to $1 without the blanks around it.
trim() {
    trimmed=${1#"${1%%[!"$blank"]*}"}
    trimmed=${trimmed%"${trimmed##*[!"$blank"]}"}
}

# read_conf FILE: lines KEY=value into setting_KEY. Nothing in the file is ever executed.
read_conf() {
    number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        trim "${line%"$cr"}"
        case $trimmed in
        '' | '#'*) continue ;;
        *=*) line=$trimmed ;;
        *) die 2 "$1:$number: expected KEY=value" ;;
        esac
        trim "${line%%=*}"
        key=$trimmed
        trim "${line#*=}"
        case $trimmed in '"'*'"') trimmed=${trimmed#'"'} trimmed=${trimmed%'"'} ;; esac
        case $key in
        PASSWORD) die 2 "$1:$number: a password does not belong here: name a PASSWORD_FILE" ;;
        '' | *[!A-Z_]*) die 2 "$1:$number: expected KEY=value" ;;
        esac
        case " $keys " in
        *" $key "*) eval "setting_$key=\$trimmed" ;;
        *) die 2 "$1:$number: $key is not known: known are $keys" ;;
        esac
    done <"$1"
}

# load_settings FRAMEWORK: defaults, then the file, then STILLFRAME_GENERIC_*; the last one that says something wins.
load_settings() {
    setting_BACKUPROOT=/mnt setting_HOST='' setting_USERNAME='' setting_PASSWORD_FILE='' setting_THUMBPRINT=''
    setting_CA_FILE='' setting_TRANSPORT_MODE=nbdssl setting_VMDK_FORMAT=twoGbMaxExtentSparse
    setting_VM_LOOKUP_METHOD=ipaddr setting_PREEXISTING_MOUNTPOINT=fail
    conf=${STILLFRAME_GENERIC_CONF:-}
    if [ -z "$conf" ]; then
        for file in ${1:+"$1/config/stillframe-generic.conf"} /etc/stillframe/stillframe-generic.conf; do
            if [ -f "$file" ]; then
                conf=$file
                break
            fi
        done
    elif [ ! -f "$conf" ] || [ ! -r "$conf" ]; then
        die 2 "$conf cannot be read; STILLFRAME_GENERIC_CONF names it"
    fi
    if [ -n "$conf" ]; then read_conf "$conf"; fi
    for key in $keys; do
        eval "given=\${STILLFRAME_GENERIC_$key:-}"
        if [ -n "$given" ]; then eval "setting_$key=\$given"; fi
    done
}

# use_image VM: $root, $leaf and $image, the directory with the disks, and $mount, the one with the files of the guest.
use_image() {
    case $1 in
    '') die 2 "no VM is named" ;;
    */*) die 2 "\"$1\" holds a slash and cannot name a directory: name the VM by its address, or rename it" ;;
    *"$newline"*) die 2 "the VM's name holds a line break and cannot name a directory" ;;
    esac
    root=$setting_BACKUPROOT
    case $root in
    /*) ;;
    *) die 2 "BACKUPROOT is \"$root\": expected the full path of a directory" ;;
    esac
    [ -d "$root" ] || die 2 "BACKUPROOT $root is no directory: make it first"
    leaf=$1-fullVM
    image=${root%/}/$leaf
    mount=${root%/}/$1
}

# split_name: some products name their sources by what is to be made: of web01-fullVM in $vm remains web01, and $word is fullvm.
split_name() {
    case $(lower "$vm") in
    *-fullvm) vm=${vm%-*} word=fullvm ;;
    esac
}

# use_kind WORD: $kind, fullvm or file.
use_kind() {
    kind=$(lower "$1")
    case $kind in
    fullvm | file) ;;
    *) die 2 "\"$1\" is neither fullvm nor file. ($usage)" ;;
    esac
}

# Takes the mount of use_image down, and its snapshot. Fine if there is none. Its options come from the environment.
remove_mount() {
    "$program" vcbMounter -U -r "$mount" </dev/null >&2
}

there() { [ -e "$1" ] || [ -h "$1" ]; }

# The files that the manifest in this directory lists, the catalog first. Its form is that of our writer: one value a line, and no
# quotation mark, separator or control character in a file's name.
listed_files() {
    echo catalog
    awk '
        /^ *"files": \[$/ { inside = 1; next }
        inside && /^ *\],?$/ { inside = 0; next }
        /\// { next }
        /^ *"hashes": "[^"]*",?$/ { sub(/^ *"hashes": "/, ""); sub(/",?$/, ""); print; next }
        !inside { next }
        /^ *"name": "[^"]*",?$/ { sub(/^ *"name": /, "") }
        /^ *"[^"]*",?$/ { sub(/^ *"/, ""); sub(/",?$/, ""); print }
    ' manifest.json
    echo config.xml
}

# stranger DIR: why it is no complete backup of ours that holds nothing else; nothing if it is one.
stranger() (
    if [ -h "$1" ] || [ ! -d "$1" ]; then
        echo "it is no directory"
        exit
    fi
    cd -P -- "$1" || exit
    for name in ${2-catalog} manifest.json; do
        if [ -h "$name" ] || [ ! -f "$name" ]; then
            echo "it holds no $name"
            exit
        fi
    done
    if ! grep -q '^  "stillframe": "' manifest.json; then
        echo "its manifest.json is not ours"
        exit
    fi
    files=$(listed_files)
    for name in * .[!.]* ..?*; do
        there "./$name" || continue
        if [ "$name" = manifest.json ]; then continue; fi
        case $name in *"$newline"*) known=no ;; *) known=yes ;; esac
        if [ -h "./$name" ] || [ ! -f "./$name" ]; then known=no; fi
        if [ $known = no ] || ! printf '%s\n' "$files" | grep -qxF -e "$name"; then
            echo "it holds $name, which the backup did not put there"
            exit
        fi
    done
)

# Removes what the manifest of $1 lists, the manifest last, then the directory.
empty_out() (
    cd -P -- "$1" || exit 1
    if [ -f manifest.json ]; then
        listed_files | while IFS= read -r name; do rm -f -- "./$name" || exit 1; done || exit 1
        rm -f ./manifest.json || exit 1
    fi
    cd .. || exit 1
    rmdir -- "$1" 2>/dev/null || ! there "$1"
)

# Removes the image of use_image, if it is one. It loses its name first, so no half image ever stands there.
remove_image() {
    going=${root%/}/.$leaf.removing
    if there "$going"; then # an earlier removal was broken off
        why=
        if ! rmdir -- "$going" 2>/dev/null; then why=$(stranger "$going" ''); fi
        [ -z "$why" ] || die 6 "$going stands in the way: $why"
        ! there "$going" || empty_out "$going" || die 1 "cannot remove $going"
    fi
    if ! there "$image"; then return 0; fi
    why=$(stranger "$image")
    [ -z "$why" ] || die 6 "$image was left alone: $why"
    if mv -- "$image" "$going"; then
        empty_out "$going" || die 1 "cannot remove $going"
    elif there "$image"; then
        die 1 "cannot remove $image"
    fi
}

# run SIGNAL COMMAND...: runs it to its end; a signal to this script becomes SIGNAL to the command. At a terminal an interrupt
# reaches the command by itself. From here on no signal ends this script before it has undone what it did; $cancelled remembers it.
cancelled=
run() {
    signal=$1
    shift
    "$@" </dev/null &
    child=$!
    stopped=
    trap 'stopped=yes cancelled=yes; kill -s "$signal" "$child" 2>/dev/null' HUP TERM
    trap 'stopped=yes cancelled=yes; [ -t 2 ] || kill -s "$signal" "$child" 2>/dev/null' INT
    wait "$child"
    status=$?
    # A signal ends the wait, not the command.
    while [ -n "$stopped" ]; do
        stopped=
        wait "$child"
        again=$?
        if [ "$again" -ne 127 ]; then status=$again; fi
    done
    trap 'cancelled=yes' HUP INT TERM
    return "$status"
}
