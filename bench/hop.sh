#!/bin/bash
# hop.sh [ARGUMENT of `hop`]...: builds what is measured, starts the brokers, runs the benchmark.
# BROKERS="3.10 4.3" names the RabbitMQ versions (4.3). The report: target/bench/hop.json and hop.md; the table also replaces
# the one in docs/perf/hop.md.
set -euo pipefail
cd "$(dirname "$0")/.."
TARGET="${CARGO_TARGET_DIR:-target}"

if [ -z "${ASYA_TEST_AMQP_URLS:-}" ]; then
    cargo build --quiet --release -p asya-bench -p asya-dataplane
    target/venv/bin/python runtime/build.py
    exec tests/servers/with-brokers.sh ${BROKERS:-4.3} -- "$0" "$@"
fi
arguments=()
for pair in $ASYA_TEST_AMQP_URLS; do
    version=${pair%%=*} pid="ASYA_TEST_BROKER_PID_${pair%%=*}"
    pid=${pid//./_}
    arguments+=(--rabbitmq "$version=${pair#*=}=${!pid}")
done
"$TARGET/release/hop" --embedded "${arguments[@]}" --sidecar "$TARGET/release/asya-sidecar" --forwarders "$TARGET/release" "$@"

# What stands between the two marks in the page is this script's.
if [ "$TARGET" = target ] && [ -e target/bench/hop.md ]; then
    awk '/<!-- measured -->/ { print; while ((getline line < "target/bench/hop.md") > 0) print line; skip = 1 }
         /<!-- end -->/ { skip = 0 }
         !skip' docs/perf/hop.md >target/bench/page.md
    cp target/bench/page.md docs/perf/hop.md
fi
