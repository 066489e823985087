# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Shared by the scripts: errors in one line; installing missing Debian packages without starting their services.

fail() {
    echo "error: $*" >&2
    exit 1
}

# Debian's packages start their services unless /usr/sbin/policy-rc.d exits with 101. An existing one is renamed and
# restored.
policy=/usr/sbin/policy-rc.d
policy_saved=$policy.before-pycm
policy_mark='# for the time of one apt-get run of pycm'

forbid_services() {
    allow_services    # what a killed run may have left
    [ ! -e "$policy" ] || mv "$policy" "$policy_saved"
    printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" > "$policy"
    chmod 755 "$policy"
}

allow_services() {
    if [ -e "$policy" ] && grep -qxF "$policy_mark" "$policy"; then rm "$policy"; fi
    if [ -e "$policy_saved" ]; then mv "$policy_saved" "$policy"; fi
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

# install_missing PACKAGE...: nothing happens, and root is not needed, if all are there.
install_missing() {
    local package missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || fail "not a Debian machine: install these by hand: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "these Debian packages are missing: ${missing[*]}; run this as root, or install them first"
    echo "Installing from Debian: ${missing[*]}"
    apt_install "${missing[@]}"
}

apt_wait=300    # seconds for which another program may hold one of apt's locks

# apt_get LOG WORD...: waits for the locks of apt. Its own DPkg::Lock::Timeout does not cover those of `update`.
apt_get() {
    local log=$1 held said='' end=$((SECONDS + apt_wait))
    shift
    until LC_ALL=C apt-get -qq -o Acquire::Retries=3 "$@" < /dev/null > "$log" 2>&1 9>&-; do
        held=$(grep -m 1 -o 'Could not get lock .*' "$log") || return 1
        [ "$SECONDS" -lt "$end" ] || return 1
        [ -n "$said" ] || echo "waiting for apt, $apt_wait s at most: ${held%.}" >&2
        said=1
        sleep 1
    done
}

apt_turn=/run/lock/pycm-apt    # one run after the other: the first one to end would allow services for all

# A subshell, so that its trap puts the policy back however it ends and leaves the caller's traps alone.
apt_install() (
    exec 9> "$apt_turn"
    if ! flock -n 9; then
        echo "waiting for another script of pycm that installs packages, $((2 * apt_wait)) s at most" >&2
        flock -w "$((2 * apt_wait))" 9 || fail "another script of pycm still installs packages"
    fi
    log=$(mktemp)
    trap 'allow_services; rm -f "$log"' EXIT
    trap 'echo stopped >&2; exit 130' INT TERM HUP
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt_get "$log" update && apt_get "$log" install --yes --no-install-recommends "$@"; }; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install: $*"
    fi
)
