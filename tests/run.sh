#!/bin/bash
# run.sh [PHASE|lint|test|all]...: the project's checks, one phase after the other, each with its duration.
#
# A phase's output goes to target/checks/PHASE.log; the end of it is shown when the phase fails, and the others still run.
# The last line counts tests (a phase that reports none counts as one): "N passed, N failed".
# Everything runs in one PID namespace where that is allowed: when this script ends, however it ends, so does all of it.
set -uo pipefail
cd "$(dirname "$0")/.."

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

LINT="fmt clippy deny rustdoc mypy"
TEST="cargo python loom miri fuzz simulate blackbox kill chaos"
SIMULATION_SEEDS=${SIMULATION_SEEDS:-3000}

if [ "${1:-}" = --list ]; then
    printf 'lint: %s\ntest: %s\n' "$LINT" "$TEST"
    exit
fi

if [ "$(id -u)" = 0 ] && [ -z "${ASYA_CHECKS_INSIDE:-}" ] && unshare --pid --fork --mount-proc true 2>/dev/null; then
    export ASYA_CHECKS_INSIDE=1
    exec setpriv --pdeathsig KILL unshare --pid --fork --mount-proc --kill-child=KILL "$0" "$@"
fi

# --- lints ------------------------------------------------------------------------------------------------------------

phase_fmt() { cargo fmt --all --check; }

phase_clippy() { cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings; }

# Advisories are left out: their database is a git repository that an isolated machine cannot fetch.
phase_deny() {
    tests/env/install.sh tools
    PATH="$(tests/env/install.sh tools-path):$PATH" cargo deny check bans licenses sources
}

phase_rustdoc() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --all-features; }

phase_mypy() { (cd runtime && ../target/venv/bin/mypy --cache-dir ../target/mypy); }

# --- tests ------------------------------------------------------------------------------------------------------------

phase_cargo() { tests/servers/with-brokers.sh 3.10 4.0 4.3 --tls --sqs -- cargo test --workspace --all-features --no-fail-fast; }

phase_python() {
    runtime/tests/run.sh
    target/venv/bin/python -m pytest -q -p no:cacheprovider tests/live tests/chaos
}

phase_loom() { RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p asya-ring --lib loom -- --nocapture; }

# Weak memory is loom's part: miri has no model of atomics of two widths on the same bytes.
phase_miri() {
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-disable-weak-memory-emulation" CARGO_TARGET_DIR=target/miri \
        cargo +nightly miri test -p asya-ring --test memory --test model --test peer_words
}

phase_fuzz() { tests/fuzz/run.sh; }

# The planted bugs take minutes more: `make simulate` runs them too.
phase_simulate() { cargo run --quiet --profile sim -p asya-tests --bin simulate -- --seeds "$SIMULATION_SEEDS"; }

phase_blackbox() { ASYA_BLACKBOX_BROKER="3.10 4.3 sqs embedded" tests/blackbox/run.sh; }

phase_kill() {
    cargo build --quiet --release -p asya-dataplane -p asya-bench
    target/venv/bin/python runtime/build.py
    tests/servers/with-brokers.sh ${ASYA_KILL_BROKERS:-4.3} -- target/venv/bin/python tests/kill/run.py --messages 6000 --kills 40 --embedded target/release
}

# What a longer run does: make chaos MINUTES=n.
phase_chaos() { tests/chaos/run.sh --messages 100000 --actors 2 1 3; }

# --- running them -----------------------------------------------------------------------------------------------------

# count WORD FILE: the tests that the runners in this log say have passed or failed.
count() {
    sed 's/\x1b\[[0-9;]*m//g' "$2" | awk -v word="$1" '
        /^test result:/ || /^(=+ )?[0-9]+ (passed|failed).* in [0-9.]+s/ || /^[0-9]+ passed, [0-9]+ failed$/ {
            for (i = 2; i <= NF; i++) if ($i ~ "^" word) sum += $(i - 1)
        }
        word == "passed" && /^Ran [0-9]+ tests? in/ { sum += $2 }
        END { print sum + 0 }'
}

run_phase() {
    local name=$1 log="target/checks/$1.log" before=$SECONDS status=0 passed failed
    printf '%-9s ' "$name"
    # In the background, because -e has no effect on the left of ||.
    (set -e; "phase_$name") >"$log" 2>&1 </dev/null &
    wait $! || status=$?
    passed=$(count passed "$log") failed=$(count failed "$log")
    if [ $status -ne 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ $status -eq 0 ] && [ "$passed" = 0 ]; then passed=1; fi
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
    if [ $status -eq 0 ]; then
        echo "ok      $((SECONDS - before)) s, $passed passed"
    else
        echo "FAILED  $((SECONDS - before)) s, $passed passed, $failed failed (status $status); the end of $log:"
        tail -n 60 "$log" | sed 's/^/    | /'
    fi
}

phases=()
for word in "${@:-test}"; do
    case "$word" in
    lint) phases+=($LINT) ;;
    test) phases+=($TEST) ;;
    all) phases+=($LINT $TEST) ;;
    *)
        declare -F "phase_$word" >/dev/null || {
            echo "there is no phase $word; tests/run.sh --list names them" >&2
            exit 64
        }
        phases+=("$word")
        ;;
    esac
done

mkdir -p target/checks
trap 'exit 130' INT TERM
tests/env/install.sh test || exit 1
PASSED=0 FAILED=0
for name in "${phases[@]}"; do run_phase "$name"; done
echo "$PASSED passed, $FAILED failed"
[ "$FAILED" = 0 ]
