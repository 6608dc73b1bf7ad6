#!/usr/bin/env bash
# Installs what tests/system-packages.txt lists and is missing, where that is possible: as root, with apt.
set -euo pipefail
missing=()
while read -r program package; do
    command -v "$program" >/dev/null || missing+=("$package")
done < <(grep -v '^#' "$(dirname "$0")/system-packages.txt")
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests need these packages, please install them: ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1: what is installed is not started as a service
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
