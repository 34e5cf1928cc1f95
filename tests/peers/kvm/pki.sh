#!/bin/bash
# Makes the certificates of one private libvirt host: for libvirt's own TLS, and for NBD over TLS.
#
#   tests/peers/kvm/pki.sh DIR
#
# Each program wants names of its own for the same three things, the CA, the certificate and its key:
#
#   server, client                   libvirt's:  cacert.pem, servercert.pem, serverkey.pem; clientcert.pem, clientkey.pem
#   nbd-server, nbd-client           gnutls':    ca-cert.pem, server-cert.pem, server-key.pem; client-cert.pem, client-key.pem
#   expired, stranger, nameless      clients in libvirt's names, nbd-expired, nbd-stranger, nbd-nameless in gnutls':
#                                    a certificate that has run out; one of another CA, which trusts only that one;
#                                    none at all
#   nbd-impostor, nbd-past           servers: a certificate for another host; one that has run out
#
# The keys of the NBD servers can be read by libvirt-qemu, as guests run.
set -euo pipefail

mkdir -p "$1"
chmod 711 "$1"
cd "$1"

# authority NAME: NAME.pem and NAME.key.
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.pem" -days 30 \
        -subj "/CN=stillframe tests, $1" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        2>/dev/null
}

# leaf NAME CA USAGE [SUBJECT-ALT-NAMES]: NAME.pem and NAME.key.
leaf() {
    local name=$1 ca=$2 usage=$3 names=${4:-}
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$name.key" -out "$name.csr" \
        -subj "/O=stillframe tests/CN=$name" 2>/dev/null
    openssl x509 -req -in "$name.csr" -CA "$ca.pem" -CAkey "$ca.key" -CAcreateserial -out "$name.pem" -days 30 -extfile <(
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature,keyEncipherment"
        echo "extendedKeyUsage=$usage"
        if [ -n "$names" ]; then echo "subjectAltName=$names"; fi
    ) 2>/dev/null
    rm "$name.csr"
}

# expired NAME CA USAGE LINE: a certificate that was good for one day of 2020; openssl alone cannot make one.
expired() {
    printf '%s\n' "cn = $1" "activation_date = 2020-01-01" "expiration_date = 2020-01-02" signing_key encryption_key "$3" "${4:-}" >"$1.txt"
    certtool --generate-privkey --key-type ecdsa --curve secp256r1 --outfile "$1.key" 2>/dev/null
    certtool --generate-certificate --template "$1.txt" --load-privkey "$1.key" --load-ca-certificate "$2.pem" \
        --load-ca-privkey "$2.key" --outfile "$1.pem" 2>/dev/null
    rm "$1.txt"
}

# in_names_of_libvirt FOLDER ROLE CA [LEAF] and in_names_of_gnutls: the same files, called as each of them wants it.
in_names_of_libvirt() {
    mkdir -p "$1"
    cp "$3.pem" "$1/cacert.pem"
    if [ -n "${4:-}" ]; then cp "$4.pem" "$1/$2cert.pem"; cp "$4.key" "$1/$2key.pem"; fi
}
in_names_of_gnutls() {
    mkdir -p "$1"
    cp "$3.pem" "$1/ca-cert.pem"
    if [ -n "${4:-}" ]; then cp "$4.pem" "$1/$2-cert.pem"; cp "$4.key" "$1/$2-key.pem"; fi
}

authority ca
authority other-ca
leaf host ca serverAuth DNS:localhost,IP:127.0.0.1
leaf elsewhere ca serverAuth DNS:elsewhere.invalid
leaf user ca clientAuth
expired late ca tls_www_client
expired past ca tls_www_server "dns_name = localhost"
leaf foreign other-ca clientAuth

in_names_of_libvirt server server ca host
in_names_of_gnutls nbd-server server ca host
in_names_of_gnutls nbd-impostor server ca elsewhere
in_names_of_gnutls nbd-past server ca past
for client in client=user expired=late nameless=; do
    in_names_of_libvirt "${client%=*}" client ca "${client#*=}"
    in_names_of_gnutls "nbd-${client%=*}" client ca "${client#*=}"
done
in_names_of_libvirt stranger client other-ca foreign
in_names_of_gnutls nbd-stranger client other-ca foreign
rm -f ./*.srl
chmod 640 nbd-*/server-key.pem
if getent group libvirt-qemu >/dev/null; then chgrp libvirt-qemu nbd-*/server-key.pem; fi
