#!/bin/bash
# with-brokers.sh [3.10] [4.0] [4.3] [--tls] [--conf LINE]... [--sqs] -- COMMAND...
#
# Runs COMMAND beside real brokers on free loopback ports, ends them, and gives back its status. Without a version of RabbitMQ:
# 3.10 and 4.3; with --sqs and without a version: none. COMMAND finds
#   ASYA_TEST_AMQP_URLS           "3.10=amqp://… 4.3=amqp://…"
#   ASYA_TEST_AMQPS_URLS          the same with TLS (with --tls)
#   ASYA_TEST_CA_FILE             the certificate authorities of all of them (with --tls)
#   ASYA_TEST_RABBITMQCTL_3_10    a command for that broker; likewise _4_3
#   ASYA_TEST_BROKER_DIR_3_10     its folder (for `rabbitmq.py stop|start`); ASYA_TEST_BROKER_PID_3_10 its first process
# and with --sqs
#   ASYA_TEST_SQS_URLS            "elasticmq=http://… ministack=http://…", and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for them
set -euo pipefail
here=$(dirname "$0")

rabbitmq=() sqs=no versions=no
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
    --sqs) sqs=yes ;;
    --conf) rabbitmq+=("$1" "$2") && shift ;;
    --*) rabbitmq+=("$1") ;;
    *) rabbitmq+=("$1") versions=yes ;;
    esac
    shift
done
[ $sqs = no ] && exec python3 "$here/rabbitmq.py" with "${rabbitmq[@]}" "$@"
[ $versions = no ] && exec python3 "$here/sqs.py" with "$@"
exec python3 "$here/sqs.py" with -- python3 "$here/rabbitmq.py" with "${rabbitmq[@]}" "$@"
