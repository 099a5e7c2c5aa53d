#!/bin/sh
# Makes the test CA and the certificate of the examples anew. Needs openssl 1.1.1 or newer.
# The CA's key is thrown away: nobody can issue a second certificate in its name.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 \
  -keyout "$work/ca.key" -out ca.crt -subj "/CN=Standfast test CA" \
  -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
  -addext "keyUsage=critical,keyCertSign,cRLSign"

cat > "$work/leaf.ext" <<'EXT'
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,DNS:*.localhost,IP:127.0.0.1,IP:::1
EXT
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
  -keyout dev.key -out "$work/dev.csr" -subj "/CN=localhost"
openssl x509 -req -in "$work/dev.csr" -CA ca.crt -CAkey "$work/ca.key" -CAcreateserial \
  -CAserial "$work/serial" -days 36500 -extfile "$work/leaf.ext" -out dev.crt

# A key too weak to be accepted, for the test that says so.
openssl genrsa -out weak-rsa1024.key 1024
chmod 600 dev.key weak-rsa1024.key
