#!/bin/bash
# run.sh [ARGUMENT-OF-run.py]...: the chaos suite on real brokers, which this starts, with programs that this builds.
#
#   TRANSPORTS  of rabbitmq, sqs and embedded (default: all three)
#   RABBITMQ    which versions (default: 4.3)
#   SEED        where everything follows from (default: another one each time; it is printed)
#
# SQS is ElasticMQ: of the servers that run anywhere it is the strictest (batches, entries that fail, receipts, leases), and quick enough.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
tests/env/install.sh test
cargo build --quiet --release -p asya-dataplane -p asya-bench
target/venv/bin/python runtime/build.py >/dev/null

transports=${TRANSPORTS:-rabbitmq sqs embedded}
command=(target/venv/bin/python tests/chaos/run.py --transports $transports ${SEED:+--seed "$SEED"} "$@")
case " $transports " in *" rabbitmq "*) command=(tests/servers/with-brokers.sh ${RABBITMQ:-4.3} -- "${command[@]}") ;; esac
case " $transports " in *" sqs "*) command=(python3 tests/servers/sqs.py with elasticmq -- "${command[@]}") ;; esac
exec "${command[@]}"
