#!/bin/bash
# install.sh demo|test|tools: has what a fresh Debian machine lacks, says what it does, and is silent and quick when there is nothing to do.
#
#   demo   a C compiler and Python (apt), the Rust toolchain of rust-toolchain.toml, target/venv with demo.txt
#   test   that, and clippy, rustfmt, nightly with miri (rustup), test.txt in target/venv, the brokers of tests/servers (for
#          the SQS servers among them Maven and a Java runtime)
#   tools  cargo-deny and cargo-fuzz, built once into the cache (minutes the first time)
#
# Each step has a stamp under target/ that is keyed by what it was made from, so an edited requirement runs its step again.
set -euo pipefail
cd "$(dirname "$0")/../.."

CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/asya"
TOOLS="$CACHE/tools-$CARGO_DENY-$CARGO_FUZZ"
NIGHTLY=nightly
LOG=target/install.log

say() { echo "install: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Runs a command with its output in the log, and shows the end of that when it fails.
quietly() {
    "$@" >"$LOG" 2>&1 || {
        tail -n 40 "$LOG" >&2
        fail "this failed (all of its output is in $LOG): $*"
    }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_packages NAME...: installs those that are missing.
apt_packages() {
    local missing=()
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || fail "install these first, this is not a Debian machine: ${missing[*]}"
    say "apt packages: ${missing[*]}"
    quietly as_root apt-get -o DPkg::Lock::Timeout=600 -q update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -q -y install --no-install-recommends "${missing[@]}"
}

have_rust() {
    export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    if ! command -v cargo >/dev/null && ! command -v rustup >/dev/null; then
        if [ -n "$(apt-cache policy rustup 2>/dev/null | grep -v 'Candidate: (none)' | grep Candidate)" ]; then
            apt_packages rustup
        else
            # Debian 12 has no rustup package and its cargo is too old; PyPI has a package that fetches rustup.
            say "Rust: by rustup, fetched through PyPI's puccinialin (Debian $(. /etc/os-release && echo "$VERSION_ID") has no rustup package)"
            rustup_from_pypi
        fi
    fi
    command -v rustup >/dev/null || {
        say "no rustup: using $(cargo --version), which must be at least $(toolchain)"
        return
    }
    rustup toolchain list | grep -q "^$(toolchain)-" || {
        say "Rust toolchain $(toolchain)"
        quietly rustup toolchain install "$(toolchain)" --profile minimal
    }
}

toolchain() {
    sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml
}

rustup_from_pypi() {
    local folder="$PWD/target/rustup-from-pypi"
    rm -rf "$folder"
    quietly python3 -m venv "$folder/venv"
    quietly "$folder/venv/bin/pip" install --quiet puccinialin==0.1.14
    # In another folder, because the toolchain that this repository names is not there yet.
    quietly env -C / XDG_CACHE_HOME="$folder/cache" "$folder/venv/bin/python" -m puccinialin
    local init
    init=$(find "$folder" -name 'rustup-init*' -type f -perm -u+x | head -n 1)
    [ -n "$init" ] || fail "install Rust $(toolchain) with rustup (https://rustup.rs), then run this again"
    quietly "$init" -y --no-modify-path --profile minimal --default-toolchain none
    rm -rf "$folder"
}

# component TOOLCHAIN NAME...: adds those that are missing.
component() {
    local chain=$1 name there
    shift
    there=$(rustup component list --toolchain "$chain" --installed)
    for name in "$@"; do
        grep -q "^$name" <<<"$there" || {
            say "Rust component $name of $chain"
            quietly rustup component add --toolchain "$chain" "$name"
        }
    done
}

# requirements NAME: what that file lists, in target/venv.
requirements() {
    local list="tests/env/$1.txt" stamp python
    python=$(command -v python3)
    stamp="target/venv/.$1-$(cat "$list" <("$python" -VV) | sha256sum | cut -c1-12)"
    [ -e "$stamp" ] && return
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is $("$python" -V); the pinned packages need 3.11 or newer"
    if ! [ -x target/venv/bin/python ] || [ "$("$python" -VV)" != "$(target/venv/bin/python -VV)" ]; then
        rm -rf target/venv
        quietly "$python" -m venv target/venv
    fi
    say "Python packages: $(grep -v '^#' "$list" | xargs) (target/venv)"
    quietly target/venv/bin/pip install --disable-pip-version-check --quiet --requirement "$list"
    rm -f target/venv/."$1"-*
    touch "$stamp"
}

cargo_tool() {
    [ -x "$TOOLS/bin/$1" ] && return
    say "$1 $2: building it into $TOOLS (minutes)"
    # Outside the repository, so that neither its toolchain file nor its settings bear on the tool.
    quietly env -C / CARGO_TARGET_DIR="$TOOLS/build" cargo "+$(toolchain)" install "$1" --version "$2" --locked --root "$TOOLS"
    rm -rf "$TOOLS/build"
}

demo() {
    apt_packages build-essential ca-certificates python3 python3-venv
    have_rust
    requirements demo
}

tests() {
    demo
    apt_packages mmdebstrap openssl util-linux iproute2 procps
    if command -v rustup >/dev/null; then
        component "$(toolchain)" clippy rustfmt
        rustup toolchain list | grep -q "^$NIGHTLY-" || {
            say "Rust toolchain $NIGHTLY (for miri and fuzzing)"
            quietly rustup toolchain install "$NIGHTLY" --profile minimal
        }
        component "$NIGHTLY" miri rust-src
    fi
    requirements test
    quietly as_root env XDG_CACHE_HOME="${XDG_CACHE_HOME:-$HOME/.cache}" python3 tests/servers/rabbitmq.py install 3.10 4.0 4.3
    quietly python3 tests/servers/sqs.py install
}

tools() {
    have_rust
    mkdir -p "$TOOLS"
    cargo_tool cargo-deny "$CARGO_DENY"
    cargo_tool cargo-fuzz "$CARGO_FUZZ"
}

mkdir -p target
exec 9>target/install.lock
flock 9 # two of these at once would fight over apt and target/venv
case "${1:-}" in
demo) demo ;;
test) tests ;;
tools) tools ;;
tools-path) echo "$TOOLS/bin" ;;
*) fail "say what for: install.sh demo|test|tools" ;;
esac
