//! Random heads, documents and sections for the property tests.

#![allow(dead_code)] // each test file uses its share

use asya_envelope::blob::{self, BlobInfo, ENTRY_LEN};
use asya_envelope::{ErrorInfo, Head, Headers, Payload, Phase, Route, RouteShape, Status};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::Value;

/// Text with everything that needs care: quotes, escapes, control characters, other planes.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{0,12}", "[\\x00-\\x22\\x5c\\x7fé🚀\u{2028}]{0,12}", any::<String>()]
}

pub fn name() -> impl Strategy<Value = String> {
    text().prop_filter("a name is not empty", |name| !name.is_empty())
}

pub fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((text(), inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A JSON text with white space in odd places.
pub fn document() -> impl Strategy<Value = String> {
    (json_value(), any::<bool>()).prop_map(|(value, pretty)| {
        if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() }
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    vec((text(), json_value()), 0..5).prop_map(|fields| {
        let object = Value::Object(fields.into_iter().collect());
        Headers::from_json(&object.to_string()).unwrap()
    })
}

fn route() -> impl Strategy<Value = Route> {
    prop_oneof![
        (vec(name(), 0..4), name(), vec(name(), 0..4)).prop_map(|(prev, curr, next)| Route { prev, curr, next }),
        vec(name(), 1..4).prop_map(|prev| Route { prev, ..Route::default() }),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    proptest::sample::select(vec![
        Phase::Pending,
        Phase::Processing,
        Phase::Retrying,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Paused,
        Phase::Canceled,
    ])
}

fn error() -> impl Strategy<Value = ErrorInfo> {
    (text(), text(), vec(text(), 0..3), option::of(text()))
        .prop_map(|(message, error_type, mro, traceback)| ErrorInfo { message, error_type, mro, traceback })
}

fn status() -> impl Strategy<Value = Status> {
    let names = (option::of(text()), text(), text(), text(), option::of(text()));
    (phase(), names, any::<u32>(), any::<u32>(), option::of(error())).prop_map(
        |(phase, (reason, actor, created_at, updated_at, deadline_at), attempt, max_attempts, error)| Status {
            phase,
            reason,
            actor,
            attempt,
            max_attempts,
            created_at,
            updated_at,
            deadline_at,
            error,
        },
    )
}

/// Unknown fields, in the order in which a decoder finds them: the route's, the status's, the others.
fn extensions(with_status: bool) -> impl Strategy<Value = Vec<(String, String)>> {
    let field = |prefix: &'static str| {
        vec(("[m-q]{1,3}", document()), 0..3).prop_map(move |fields| {
            fields.into_iter().map(|(name, raw)| (format!("{prefix}{name}"), raw)).collect::<Vec<_>>()
        })
    };
    (field("route."), field("status."), field("")).prop_map(move |(route, status, top)| {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, raw) in route.into_iter().chain(if with_status { status } else { Vec::new() }).chain(top) {
            if all.iter().all(|(earlier, _)| *earlier != name) {
                all.push((name, raw));
            }
        }
        all
    })
}

pub fn head() -> impl Strategy<Value = Head> {
    let shape = prop_oneof![Just(RouteShape::Curr), Just(RouteShape::Actors)];
    let ids = (name(), option::of(text()), option::of(text()));
    (ids, route(), shape, headers(), option::of(status())).prop_flat_map(
        |((id, parent_id, namespace), route, shape, headers, status)| {
            extensions(status.is_some()).prop_map(move |extensions| Head {
                id: id.clone(),
                parent_id: parent_id.clone(),
                namespace: namespace.clone(),
                route: route.clone(),
                shape,
                headers: headers.clone(),
                status: status.clone(),
                extensions,
            })
        },
    )
}

/// A payload section with some blobs.
pub fn section() -> impl Strategy<Value = (Vec<u8>, Payload)> {
    let blob =
        (proptest::sample::select(vec![("raw", 1), ("|u1", 1), ("<f4", 4), (">i8", 8)]), vec(any::<u64>(), 0..40));
    (document(), vec(blob, 0..5)).prop_map(|(document, blobs)| {
        let blobs: Vec<(&str, u64, Vec<u8>)> = blobs
            .into_iter()
            .map(|((dtype, item), words)| {
                let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
                if item == 1 {
                    // Lengths that do not end on a boundary.
                    bytes.truncate(bytes.len() * 7 / 8);
                }
                (dtype, bytes.len() as u64 / item, bytes)
            })
            .collect();
        build_section(document.as_bytes(), &blobs)
    })
}

fn build_section(document: &[u8], blobs: &[(&str, u64, Vec<u8>)]) -> (Vec<u8>, Payload) {
    let document_len = document.len() as u64;
    let (offsets, len) = blob::place(document_len, blobs.iter().map(|(_, _, bytes)| bytes.len() as u64)).unwrap();
    let mut section = vec![0; len as usize];
    section[..document.len()].copy_from_slice(document);
    for (index, ((dtype, items, bytes), offset)) in blobs.iter().zip(offsets).enumerate() {
        let info = BlobInfo { dtype: (*dtype).to_owned(), shape: vec![*items], offset, len: bytes.len() as u64 };
        let table = blob::table_range(document_len, blobs.len() as u32).unwrap();
        let at = table.start as usize + index * ENTRY_LEN;
        blob::write_entry((&mut section[at..at + ENTRY_LEN]).try_into().unwrap(), &info);
        section[info.range().unwrap()].copy_from_slice(bytes);
    }
    (section, Payload { offset: 0, document_len, len, blobs: blobs.len() as u32 })
}
