//! The codec against `amq-protocol`, an implementation of the same protocol by others, and against models of its own.

mod decode;
mod encode;
mod pieces;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame, parse_frame};

/// The bytes of a frame, written by the other implementation.
fn written(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame::<Vec<u8>>(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
}

/// The frames in some bytes, read by the other implementation.
fn read(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        frames.push(frame);
        bytes = rest;
    }
    frames
}
