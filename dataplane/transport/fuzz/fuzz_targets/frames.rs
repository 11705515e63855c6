//! Any bytes as what a broker sends: the decoder never panics, uses up no more than there is, gives the same frames
//! however the bytes are cut, and finds the frames that another implementation of the protocol finds.
#![no_main]

use amq_protocol::frame::{AMQPFrame, parse_frame};
use asya_transport::amqp::frame::{Decoder, Frame, FrameError};
use asya_transport::amqp::method::Method;
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u32 = 4096;
/// Where the low byte of a content header's first flags lies: after the frame's header, class, weight and body size.
const FLAGS_LOW: usize = 7 + 2 + 2 + 8 + 1;

/// What a decoder gives for `bytes` when they come `step` at a time: each frame as text, bodies joined.
fn decode(bytes: &[u8], step: usize) -> (Vec<String>, Option<FrameError>) {
    let mut decoder = Decoder::new(FRAME_MAX);
    let (mut start, mut end) = (0, 0);
    let mut frames = Vec::new();
    let mut body: Option<(u16, Vec<u8>)> = None;
    loop {
        match decoder.next(&bytes[start..end]) {
            Err(error) => {
                frames.extend(body.map(|body| format!("{body:?}")));
                return (frames, Some(error));
            }
            Ok((used, frame)) => {
                assert!(used <= end - start);
                start += used;
                match frame {
                    Some(Frame::Body { channel, bytes }) => match &mut body {
                        Some((open, so_far)) if *open == channel => so_far.extend_from_slice(bytes),
                        _ => {
                            frames.extend(body.replace((channel, bytes.to_vec())).map(|body| format!("{body:?}")));
                        }
                    },
                    Some(frame) => {
                        if let Frame::Header { header, .. } = frame {
                            assert!(header.headers.entries().count() <= bytes.len());
                        }
                        frames.extend(body.take().map(|body| format!("{body:?}")));
                        frames.push(format!("{frame:?}"));
                    }
                    None if end == bytes.len() => {
                        frames.extend(body.map(|body| format!("{body:?}")));
                        return (frames, None);
                    }
                    None => end = bytes.len().min(end + step),
                }
            }
        }
    }
}

/// The first frame, where both implementations find one, is of the same kind on the same channel.
fn agrees(bytes: &[u8]) {
    let Ok((rest, theirs)) = parse_frame(bytes) else { return };
    let len = bytes.len() - rest.len();
    // An empty body frame is no frame here.
    if len > FRAME_MAX as usize || matches!(&theirs, AMQPFrame::Body(_, body) if body.is_empty()) {
        return;
    }
    // They take a second word of property flags for the first property (AMQP 0-9-1, 4.2.6.1: bit 0 announces another word).
    if matches!(&theirs, AMQPFrame::Header(..)) && bytes.get(FLAGS_LOW).is_some_and(|flags| flags & 1 == 1) {
        return;
    }
    match (Decoder::new(FRAME_MAX).next(bytes), theirs) {
        (Err(FrameError::OtherProtocol), AMQPFrame::ProtocolHeader(_)) => {}
        (Ok((used, Some(Frame::Method { channel, method }))), AMQPFrame::Method(theirs, class)) => {
            assert_eq!((used, channel), (len, theirs));
            let number = u32::from(class.get_amqp_class_id()) << 16 | u32::from(class.get_amqp_method_id());
            if let Method::Other { id } = method {
                assert_eq!(id, number);
            }
        }
        (Ok((used, Some(Frame::Header { channel, header }))), AMQPFrame::Header(theirs, content)) => {
            assert_eq!((used, channel, header.body_len), (len, theirs, content.body_size));
            let content_type = content.properties.content_type().as_ref().map_or("", |name| name.as_str());
            assert_eq!(header.content_type, content_type.as_bytes());
        }
        (Ok((used, Some(Frame::Body { channel, bytes }))), AMQPFrame::Body(theirs, body)) => {
            assert_eq!((used, channel, bytes), (len, theirs, &body[..]));
        }
        (Ok((used, Some(Frame::Heartbeat))), AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_)) => {
            assert_eq!(used, len);
        }
        // They read fields that are skipped here, and the other way round; only a disagreement on kind is one.
        (Err(_), _) => {}
        (ours, theirs) => panic!("{ours:?} where the other finds {theirs:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, bytes.len().max(1));
    for step in [1, 3, 64] {
        assert_eq!(decode(bytes, step), whole);
    }
    agrees(bytes);
});
