#!/bin/sh
# Runs the runtime's tests on each Python given (default: the oldest and the newest that can be found), each of them
# twice: with nothing but pytest (and its xdist), and with numpy, orjson and pydantic beside it. Then the type checker.
#
#     runtime/tests/run.sh [python ...]
#
# Virtual environments are kept under target/runtime-venvs, so the second run is quick. Arguments for pytest go in
# PYTEST_ARGS.
set -eu

here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH= cd -- "$here/../.." && pwd)
venvs=${ASYA_RUNTIME_VENVS:-$root/target/runtime-venvs}
export PYTHONDONTWRITEBYTECODE=1

# Interpreters from 3.9 on, oldest first: pyenv's, then those on the PATH.
find_pythons() {
    {
        if command -v pyenv >/dev/null 2>&1; then
            ls -d "$(pyenv root)"/versions/3.*/bin/python3 2>/dev/null || true
        fi
        for minor in 9 10 11 12 13 14; do
            command -v "python3.$minor" 2>/dev/null || true
        done
        command -v python3 || true
    } | while read -r python; do
        "$python" -c 'import sys, venv; v = sys.version_info; v >= (3, 9) and print("%d.%03d.%03d" % v[:3], sys.executable)' \
            2>/dev/null || true
    done | sort -u | awk '!seen[$1]++ { print $2 }'
}

if [ $# -eq 0 ]; then
    all=$(find_pythons)
    # shellcheck disable=SC2046
    set -- $(printf '%s\n' "$all" | sed -n '1p;$p' | uniq)
fi
[ $# -gt 0 ] || { echo "no Python from 3.9 on was found" >&2; exit 1; }

# A virtual environment with these packages; made once.
environment() { # name, python, packages…
    folder="$venvs/$1"
    python=$2
    shift 2
    wanted="$("$python" -V) $*"
    if [ "$(cat "$folder/.made" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$folder"
        "$python" -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
        printf '%s' "$wanted" >"$folder/.made"
    fi
}

for python; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    for kind in plain extras; do
        # Most of a test is waiting for processes to start, hence xdist.
        packages="pytest pytest-xdist"
        [ "$kind" = plain ] || packages="$packages numpy orjson pydantic"
        # shellcheck disable=SC2086
        environment "$version-$kind" "$python" $packages
        echo "== Python $version, $kind"
        # shellcheck disable=SC2086
        "$venvs/$version-$kind/bin/python" -m pytest -q -p no:cacheprovider -n 4 ${PYTEST_ARGS:-} "$here"
    done
    newest=$python
done

environment types "$newest" mypy
echo "== mypy --strict"
cd "$root/runtime"
"$venvs/types/bin/mypy" --cache-dir "$venvs/mypy-cache"
