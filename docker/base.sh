#!/bin/sh
# base.sh IMAGE [SUITE]: make a base for the images from Debian's packages, where no registry can be reached.
#
# Needs root, debootstrap and Debian's archive. The certificates that this machine trusts are trusted in the image, so
# that building on it works behind a proxy that looks into TLS: it is a base for tests, not for others.
set -eu
image=$1 suite=${2:-bookworm}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
debootstrap --variant=minbase --include=python3,ca-certificates "$suite" "$directory" >&2
cp /etc/ssl/certs/ca-certificates.crt "$directory/etc/ssl/certs/ca-certificates.crt"
find "$directory/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$directory"/var/cache/apt/*.bin "$directory"/var/cache/apt/archives/*.deb "$directory"/var/lib/apt/lists/* \
       "$directory"/usr/share/man/* "$directory"/usr/share/info/* "$directory"/usr/share/locale/* "$directory"/var/log/*
tar -C "$directory" --numeric-owner -c . | docker import --change 'CMD ["python3"]' - "$image"
