#!/bin/bash
# run.sh [PYTEST-ARGUMENT]...: the black-box tests of a real sidecar, a real runtime and a real broker.
#
#   ASYA_BLACKBOX_BROKER   of 3.10, 4.3 (RabbitMQ), sqs (ElasticMQ) and embedded, such as "3.10 sqs": the brokers, one run each
#                          (default: 3.10)
#   ASYA_BLACKBOX_SIDECAR  the sidecar to test (default: the release build, which is made first)
#   ASYA_BLACKBOX_RESULTS  a folder that gets BROKER.xml of each run, in JUnit's format (default: none)
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
tests/env/install.sh test
if [ -z "${ASYA_BLACKBOX_SIDECAR:-}" ]; then
    cargo build --quiet --release -p asya-dataplane --bin asya-sidecar
    export ASYA_BLACKBOX_SIDECAR="${CARGO_TARGET_DIR:-target}/release/asya-sidecar"
fi
status=0
for broker in ${ASYA_BLACKBOX_BROKER:-3.10}; do
    results=()
    [ -z "${ASYA_BLACKBOX_RESULTS:-}" ] || results=(--junitxml "$ASYA_BLACKBOX_RESULTS/$broker.xml")
    tests=(target/venv/bin/python -m pytest -q -p no:cacheprovider "${results[@]}" tests/blackbox "$@")
    case $broker in
    sqs) tests/servers/with-brokers.sh --sqs -- "${tests[@]}" || status=$? ;;
    embedded)
        cargo build --quiet --release -p asya-bench --bin embedded_broker --bin embedded_ask
        ASYA_BLACKBOX_EMBEDDED="${CARGO_TARGET_DIR:-target}/release" "${tests[@]}" || status=$?
        ;;
    *) tests/servers/with-brokers.sh "$broker" -- "${tests[@]}" || status=$? ;;
    esac
done
exit $status
