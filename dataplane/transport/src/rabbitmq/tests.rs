//! The transport against a broker that does on demand what a real one does not: confirms out of order, stays silent,
//! breaks the protocol.

mod client;
mod connecting;
mod consuming;
mod declaring;
mod delaying;
mod flushing;
mod frames;
mod losing;
mod publishing;
mod server;
