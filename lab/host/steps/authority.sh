#!/bin/sh
# A certificate authority made for this image alone, and one certificate for the names given as arguments, which the
# lab answers for. The authority's key is gone when this ends, so it can sign nothing else. It goes into the system's
# store: the engine takes Docker Hub's authority from there only (certs.d would not do), and so do curl and apt.
set -e
umask 077
mkdir -p /etc/lab/tls
cd /etc/lab/tls
openssl req -batch -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj '/CN=pantheon lab (stand-in sites)' -addext 'keyUsage=critical,keyCertSign' -keyout ca.key -out ca.crt
names=$(printf ',DNS:%s' "$@")
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "${names#,}" >extensions
openssl req -batch -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
    -keyout registry.key -out registry.csr
openssl x509 -req -in registry.csr -CA ca.crt -CAkey ca.key -days 3650 -extfile extensions -out registry.crt
rm ca.key registry.csr extensions
chmod 755 /etc/lab /etc/lab/tls
chmod 644 ca.crt registry.crt
cp ca.crt /usr/local/share/ca-certificates/pantheon-lab.crt
update-ca-certificates
