//! Tests of the transport without a broker.
