#!/bin/sh
# with-brokers.sh [3.10] [4.0] [4.3] [--tls] [--conf LINE]... -- COMMAND...   (no version named: 3.10 and 4.3)
#
# Runs COMMAND beside real RabbitMQ brokers on free loopback ports, ends them, and gives back its status. COMMAND finds
#   ASYA_TEST_AMQP_URLS           "3.10=amqp://… 4.3=amqp://…"
#   ASYA_TEST_AMQPS_URLS          the same with TLS (with --tls)
#   ASYA_TEST_CA_FILE             the certificate authorities of all of them (with --tls)
#   ASYA_TEST_RABBITMQCTL_3_10    a command for that broker; likewise _4_3
#   ASYA_TEST_BROKER_DIR_3_10     its folder (for `rabbitmq.py stop|start`); ASYA_TEST_BROKER_PID_3_10 its first process
exec python3 "$(dirname "$0")/rabbitmq.py" with "$@"
