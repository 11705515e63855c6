#!/bin/bash
# run.sh [PYTEST-ARGUMENT]...: the black-box tests of a real sidecar, a real runtime and a real broker.
#
#   ASYA_BLACKBOX_BROKER   of 3.10, 4.3 (RabbitMQ) and sqs (ElasticMQ), such as "3.10 sqs": the brokers, one run each (default: 3.10)
#   ASYA_BLACKBOX_SIDECAR  the sidecar to test (default: the release build, which is made first)
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
tests/env/install.sh test
if [ -z "${ASYA_BLACKBOX_SIDECAR:-}" ]; then
    cargo build --quiet --release -p asya-dataplane --bin asya-sidecar
    export ASYA_BLACKBOX_SIDECAR="${CARGO_TARGET_DIR:-target}/release/asya-sidecar"
fi
status=0
for version in ${ASYA_BLACKBOX_BROKER:-3.10}; do
    [ "$version" = sqs ] && version=--sqs
    tests/servers/with-brokers.sh "$version" -- target/venv/bin/python -m pytest -q -p no:cacheprovider tests/blackbox "$@" || status=$?
done
exit $status
