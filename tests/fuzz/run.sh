#!/bin/bash
# run.sh [--keep]: every fuzz target in turn; a crash ends it, and says where the input lies.
#
#   SECONDS_PER_TARGET  how long each (20), or MINUTES: that long for all of them together
#   ONLY                these targets alone
#
# Each begins with what the repository keeps in FOLDER/corpus/TARGET/seed-*, and leaves what it finds beside it, out of the repository.
# With --keep what was found is minimised to what covers as much, and up to KEPT_FILES of that become seeds, none above KEPT_BYTES.
set -euo pipefail
cd "$(dirname "$0")/../.."

KEPT_FILES=80 KEPT_BYTES=4000
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
tests/env/install.sh tools
PATH="$(tests/env/install.sh tools-path):$PATH"

targets=()
for folder in dataplane/*/fuzz manifest/fuzz; do
    for target in $(cargo +nightly fuzz list --fuzz-dir "$folder"); do
        case " ${ONLY:-$target} " in *" $target "*) targets+=("$folder $target") ;; esac
    done
done
seconds=${SECONDS_PER_TARGET:-20}
[ -z "${MINUTES:-}" ] || seconds=$((MINUTES * 60 / ${#targets[@]}))

# keep FOLDER TARGET: of what covers something of its own, so many files from the smallest to the largest.
keep() {
    local corpus="$1/corpus/$2" merged every file
    merged=$(mktemp -d "${TMPDIR:-/tmp}/asya-fuzz-XXXXXX")
    # What follows the dashes comes first, and the first folder is what the others are merged into.
    cargo +nightly fuzz run --fuzz-dir "$1" "$2" "$corpus" -- -merge=1 "$merged"
    every=$((($(ls "$merged" | wc -l) + KEPT_FILES - 1) / KEPT_FILES))
    for file in $(ls -Sr "$merged" | awk "NR % $every == 0"); do
        [ "$(stat -c %s "$merged/$file")" -le $KEPT_BYTES ] || continue
        cp "$merged/$file" "$corpus/seed-${file:0:12}"
    done
    rm -rf "$merged"
}

for pair in "${targets[@]}"; do
    read -r folder target <<<"$pair"
    echo "--- $target of $folder, $seconds s"
    mkdir -p "$folder/corpus/$target"
    cargo +nightly fuzz run --fuzz-dir "$folder" "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=30
    [ "${1:-}" != --keep ] || keep "$folder" "$target"
done
echo "${#targets[@]} passed, 0 failed"
