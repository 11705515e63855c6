//! What reading and writing an envelope costs. `cargo bench -p asya-envelope`; targets at 1 KiB: JSON decode 1.5 µs,
//! native decode 1 µs, encode 0.5 µs.

#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

use std::hint::black_box;

use asya_envelope::{
    Encoding, Head, Headers, Payload, Phase, Route, Status, context_json, decode, encode_json, encode_native,
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A message in the middle of its way, with a status and two headers.
fn head() -> Head {
    let text = |text: &str| text.to_owned();
    let mut headers = Headers::default();
    headers.set_str("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    headers.set_str("x-asya-reply-to", "asya-demo-replies");
    let route = Route { prev: vec![text("prepare")], curr: text("classify"), next: vec![text("report")] };
    Head {
        headers,
        namespace: Some(text("demo")),
        status: Some(Status {
            phase: Phase::Pending,
            reason: None,
            actor: text("classify"),
            attempt: 1,
            max_attempts: 0,
            created_at: text("2026-11-24T08:00:00Z"),
            updated_at: text("2026-11-24T08:00:01Z"),
            deadline_at: None,
            error: None,
        }),
        ..Head::new("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f", route)
    }
}

/// A document of about `len` bytes: records of text and numbers, as pipelines carry them.
fn document(len: usize) -> Vec<u8> {
    let mut out = b"{\"items\":[".to_vec();
    let mut number = 0;
    while out.len() + 96 < len {
        if number > 0 {
            out.push(b',');
        }
        let record = format!(
            "{{\"id\":{number},\"name\":\"record number {number}\",\"score\":{}.5,\"ok\":true,\"tags\":[\"a\",\"b\"]}}",
            number * 7
        );
        out.extend_from_slice(record.as_bytes());
        number += 1;
    }
    out.extend_from_slice(b"]}");
    out
}

fn payload(document: &[u8]) -> Payload {
    let len = document.len() as u64;
    Payload { offset: 0, document_len: len, len, blobs: 0 }
}

fn json(head: &Head, document: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut suffix = Vec::new();
    encode_json(head, &mut body, &mut suffix);
    body.extend_from_slice(document);
    body.extend_from_slice(&suffix);
    body
}

fn native(head: &Head, document: &[u8]) -> Vec<u8> {
    let mut body = document.to_vec();
    encode_native(head, payload(document), &mut body);
    body
}

fn decoding(c: &mut Criterion) {
    let head = head();
    let without_payload = json(&head, b"").len();
    for (label, len) in [("1KiB", 1 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20)] {
        let document = document(len - without_payload);
        let mut group = c.benchmark_group("decode");
        for (encoding, body) in [(Encoding::Json, json(&head, &document)), (Encoding::Native, native(&head, &document))]
        {
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_with_input(BenchmarkId::new(format!("{encoding:?}"), label), &body, |b, body| {
                b.iter(|| decode(black_box(body), encoding).unwrap());
            });
        }
        group.finish();
    }
    let text = json(&head, format!("\"{}\"", "lorem ipsum ".repeat(85)).as_bytes());
    c.bench_function("decode/Json/one string of 1KiB", |b| {
        b.iter(|| decode(black_box(&text), Encoding::Json).unwrap())
    });
}

fn encoding(c: &mut Criterion) {
    let head = head();
    let document = document(700);
    let buffers = || (Vec::with_capacity(1024), Vec::with_capacity(1024));
    let mut group = c.benchmark_group("encode");
    group.bench_function("Json", |b| {
        b.iter_batched_ref(
            buffers,
            |(prefix, suffix)| encode_json(black_box(&head), prefix, suffix),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("Native", |b| {
        b.iter_batched_ref(
            buffers,
            |(suffix, _)| encode_native(black_box(&head), payload(&document), suffix),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("context", |b| {
        b.iter_batched_ref(buffers, |(out, _)| context_json(black_box(&head), out), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, decoding, encoding);
criterion_main!(benches);
