//! The envelopes of the golden vectors, good and bad.

use asya_envelope::Encoding::{Json, Native};
use asya_envelope::{
    Encoding, ErrorInfo, Head, Headers, MAX_DEPTH, MAX_EXTENSIONS, Payload, Phase, Route, RouteShape, Status,
    TRAILER_LEN, encode_native,
};

use super::sections;

type Case = (&'static str, Encoding, Vec<u8>);

/// Every name that a decoder can give an error.
pub const ERROR_NAMES: &[&str] = &[
    "empty",
    "not_json",
    "not_utf8",
    "too_deep",
    "not_an_object",
    "trailing_bytes",
    "duplicate_field",
    "missing_field",
    "wrong_type",
    "bad_escape",
    "empty_id",
    "empty_actor",
    "empty_route",
    "current_out_of_bounds",
    "mixed_route",
    "route_gap",
    "unknown_phase",
    "too_many_extensions",
    "reserved_field",
    "bad_base64",
    "truncated",
    "bad_magic",
    "unknown_version",
    "bad_checksum",
    "corrupt_head",
    "unknown_value",
    "table_out_of_range",
    "section_wrong_length",
    "blob_out_of_range",
    "blob_misaligned",
    "blob_overlap",
    "blob_unknown_dtype",
    "blob_wrong_dims",
    "blob_wrong_size",
    "blob_reserved",
];

/// Parent, hop, index.
pub const CHILDREN: &[(&str, u32, u32)] = &[
    ("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f", 0, 0),
    ("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f", 0, 1),
    ("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f", 1, 1),
    ("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f", 0, 2),
    ("order-1", 0, 11),
    ("order-1:0", 1, 1),
    ("grüße", 4_294_967_295, 4_294_967_295),
];

/// Namespace, actor.
pub fn queue_names() -> Vec<(String, String)> {
    let label = |text: &str| text.to_owned();
    vec![
        (label("demo"), label("echo")),
        (label("demo"), label("x-sink")),
        (label("demo"), label("happy-end")),
        (label("demo"), label("error-end")),
        (label("a-b"), label("c")),
        (label("a"), label("b-c")),
        ("n".repeat(34), "a".repeat(34)),
        ("n".repeat(34), "a".repeat(35)),
        ("n".repeat(63), "a".repeat(63)),
        ("n".repeat(54), format!("{}z", "-a".repeat(20).trim_start_matches('-'))),
        (label(""), label("echo")),
        (label("demo"), label("")),
        (label("demo"), label("Echo")),
        (label("demo"), label("-echo")),
        (label("demo"), label("echo-")),
        (label("demo"), label("a.b")),
        (label("demo"), label("grüße")),
        (label("demo"), "a".repeat(64)),
        (label("demo"), label("echo-dlq")),
        (label("demo"), label("echo-delay")),
    ]
}

fn full_head() -> Head {
    let text = |text: &str| text.to_owned();
    Head {
        id: text("3f0c1d5e-8a52-4c1b-9d5e-0a1b2c3d4e5f"),
        parent_id: Some(text("order-1")),
        namespace: Some(text("demo")),
        route: Route {
            prev: vec![text("prepare")],
            curr: text("classify"),
            next: vec![text("report"), text("a-name-longer-than-eight-bytes")],
        },
        shape: RouteShape::Curr,
        headers: Headers::from_json(
            r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","n":[1,2.5e3,{"k":null}]}"#,
        )
        .unwrap(),
        status: Some(Status {
            phase: Phase::Retrying,
            reason: Some(text("RuntimeError")),
            actor: text("classify"),
            attempt: 2,
            max_attempts: 5,
            created_at: text("2026-11-24T08:00:00Z"),
            updated_at: text("2026-11-24T08:00:01Z"),
            deadline_at: Some(text("2026-11-24T09:00:00Z")),
            error: Some(ErrorInfo {
                message: text("no \"such\" file\n\u{7}grüße 🚀"),
                error_type: text("pkg.errors.NoSuchFile"),
                mro: vec![text("OSError"), text("Exception")],
                traceback: Some(text("Traceback (most recent call last):\n\tboom")),
            }),
        }),
        extensions: vec![(text("deadline"), text("\"2026-11-24T09:00:00Z\"")), (text("x"), text("{\"y\": [true]}"))],
    }
}

fn small_head() -> Head {
    Head::new("order-1", Route { curr: "echo".to_owned(), ..Route::default() })
}

fn actors_head() -> Head {
    let text = |text: &str| text.to_owned();
    let route = Route { prev: vec![text("a")], curr: text("b"), next: vec![text("c")] };
    Head {
        shape: RouteShape::Actors,
        extensions: vec![(text("route.metadata"), text("{\"job_id\":\"j-1\"}"))],
        ..Head::new("order-1", route)
    }
}

fn plain(head: &Head, document: &[u8]) -> Vec<u8> {
    let len = document.len() as u64;
    let mut body = document.to_vec();
    encode_native(head, Payload { offset: 0, document_len: len, len, blobs: 0 }, &mut body);
    body
}

fn with_section(head: &Head, section: &[u8], payload: Payload) -> Vec<u8> {
    let mut body = section.to_vec();
    encode_native(head, payload, &mut body);
    body
}

fn json_full(head: &Head, document: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let mut suffix = Vec::new();
    asya_envelope::encode_json(head, &mut body, &mut suffix);
    body.extend_from_slice(document.as_bytes());
    body.extend_from_slice(&suffix);
    body
}

fn text(name: &'static str, body: &str) -> Case {
    (name, Json, body.as_bytes().to_vec())
}

/// Bodies that are messages.
pub fn envelopes() -> Vec<Case> {
    let many: String = (0..MAX_EXTENSIONS).map(|n| format!(",\"x{n}\":{n}")).collect();
    let deep = nested(MAX_DEPTH - 1);
    let mut cases = vec![
        text("json_minimal", r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":{"n":1}}"#),
        text("json_only_curr", r#"{"id":"order-1","route":{"curr":"echo"},"payload":{}}"#),
        text("json_finished", r#"{"id":"order-1","route":{"prev":["echo"],"curr":"","next":[]},"payload":[1,2]}"#),
        text("json_payload_null", r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":null}"#),
        text(
            "json_payload_number",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":-0.5E+10}"#,
        ),
        text(
            "json_payload_string",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":"a\"b\\\u0000\ud83d\ude80 é"}"#,
        ),
        text(
            "json_payload_lone_surrogate",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":"\ud83d"}"#,
        ),
        text(
            "json_payload_huge_number",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":[1e999,123456789012345678901234567890]}"#,
        ),
        text(
            "json_payload_looks_like_blob",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":{"$asya.blob":0}}"#,
        ),
        text(
            "json_payload_looks_like_envelope",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":{"id":"x","route":{},"payload":"\"payload\":1}"}}"#,
        ),
        text(
            "json_spaces",
            "\n{ \"payload\" :\t{ \"n\" : 1 } ,\r\n \"route\" : { \"next\" : [ \"b\" ] , \"curr\" : \"a\" , \"prev\" : [ ] } , \"id\" : \"order-1\" }  \n",
        ),
        text("json_escaped_names", r#"{"\u0069d":"order\u002d1","route":{"c\u0075rr":"\u0065cho"},"payl\u006fad":1}"#),
        text(
            "json_null_options",
            r#"{"id":"order-1","parent_id":null,"namespace":null,"status":null,"route":{"curr":"echo"},"payload":1}"#,
        ),
        text(
            "json_status_short",
            r#"{"id":"order-1","route":{"curr":"echo"},"status":{"phase":"pending","deadline_at":null,"error":null},"payload":1}"#,
        ),
        text(
            "json_unknown_fields",
            r#"{"id":"order-1","route":{"curr":"echo","weight":0.5},"status":{"phase":"pending","owner":"me"},"payload":1,"deadline":"2026-11-24T09:00:00Z","a.b":[{}]}"#,
        ),
        text("json_actors", r#"{"id":"order-1","route":{"actors":["a","b","c"],"current":1},"payload":1}"#),
        text("json_actors_no_current", r#"{"id":"order-1","route":{"actors":["a"]},"payload":1}"#),
        text("json_actors_finished", r#"{"id":"order-1","route":{"actors":["a","b"],"current":2},"payload":1}"#),
        text(
            "json_actors_metadata",
            r#"{"id":"order-1","route":{"actors":["a","b"],"current":0,"metadata":{"job_id":"j-1"}},"headers":{"k":"v"},"payload":1}"#,
        ),
        text(
            "json_failure_without_id",
            r#"{"id":"","route":{"prev":[],"curr":"x-sump","next":[]},"payload":{"error":"msg_parsing_error"}}"#,
        ),
        text(
            "json_failure_without_id_older",
            r#"{"id":"","route":{"actors":["error-end"],"current":0},"payload":{"error":"msg_parsing_error"}}"#,
        ),
        text("json_blobs_empty", r#"{"id":"order-1","route":{"curr":"echo"},"payload":{"$asya.blob":0},"blobs":[]}"#),
        text(
            "json_blobs",
            r#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":{"x":{"$asya.blob":0},"y":{"$asya.blob":1},"z":{"$asya.blob":2}},"blobs":[{"dtype":"<f4","shape":[2,1],"data":"AACAPwAAAEA="},{"dtype":"raw","shape":[5],"data":"aGVsbG8="},{"dtype":"|u1","shape":[0,3],"data":""}]}"#,
        ),
        text(
            "json_blobs_escaped",
            r#"{"blobs":[{"data":"\/\/\/\/","shape":[3],"dtype":"|u1"}],"id":"order-1","route":{"curr":"echo"},"payload":{"$asya.blob":0}}"#,
        ),
        ("json_full", Json, json_full(&full_head(), "{\"text\":\"grüße\"}")),
        text("json_many_extensions", &format!(r#"{{"id":"order-1","route":{{"curr":"echo"}},"payload":1{many}}}"#)),
        text("json_deepest", &format!(r#"{{"id":"order-1","route":{{"curr":"echo"}},"payload":{deep}}}"#)),
        ("native_minimal", Native, plain(&small_head(), b"{\"n\":1}")),
        ("native_full", Native, plain(&full_head(), "{\"text\":\"grüße\"}".as_bytes())),
        ("native_actors", Native, plain(&actors_head(), b"null")),
    ];
    for (name, section, payload) in sections::good() {
        if payload.blobs > 0 {
            cases.push((name, Native, with_section(&full_head(), &section, payload)));
        }
    }
    cases
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Bodies that are none, each wrong in one way.
pub fn malformed() -> Vec<Case> {
    let mut cases = bad_json();
    cases.extend(bad_native());
    cases
}

fn bad_json() -> Vec<Case> {
    let many: String = (0..=MAX_EXTENSIONS).map(|n| format!(",\"x{n}\":{n}")).collect();
    let blobs = |blobs: &str| format!(r#"{{"id":"i","route":{{"curr":"a"}},"payload":1,"blobs":{blobs}}}"#);
    let route = |route: &str| format!(r#"{{"id":"i","route":{route},"payload":1}}"#);
    let status = |status: &str| format!(r#"{{"id":"i","route":{{"curr":"a"}},"payload":1,"status":{status}}}"#);
    let payload = |payload: &str| format!(r#"{{"id":"i","route":{{"curr":"a"}},"payload":{payload}}}"#);
    vec![
        text("empty", ""),
        text("only_spaces", "  \n"),
        text("not_json", "hello"),
        text("cut_short", r#"{"id":"i","route":{"curr":"a"},"payload":{"n":1"#),
        text("cut_in_string", r#"{"id":"i","rou"#),
        text("two_values", r#"{"id":"i","route":{"curr":"a"},"payload":1}{}"#),
        text("trailing_garbage", r#"{"id":"i","route":{"curr":"a"},"payload":1}x"#),
        text("array", "[1]"),
        text("string", "\"hello\""),
        ("invalid_utf8", Json, b"{\"id\":\"\xff\",\"route\":{\"curr\":\"a\"},\"payload\":1}".to_vec()),
        (
            "invalid_utf8_in_payload",
            Json,
            b"{\"id\":\"i\",\"route\":{\"curr\":\"a\"},\"payload\":\"\xc3\x28\"}".to_vec(),
        ),
        ("utf8_surrogate", Json, b"{\"id\":\"i\",\"route\":{\"curr\":\"a\"},\"payload\":\"\xed\xa0\x80\"}".to_vec()),
        ("byte_order_mark", Json, b"\xef\xbb\xbf{\"id\":\"i\",\"route\":{\"curr\":\"a\"},\"payload\":1}".to_vec()),
        text("trailing_comma", r#"{"id":"i","route":{"curr":"a"},"payload":1,}"#),
        text("leading_comma", r#"{,"id":"i","route":{"curr":"a"},"payload":1}"#),
        text("no_colon", r#"{"id" "i"}"#),
        text("no_comma", r#"{"id":"i" "payload":1}"#),
        text("key_not_string", r#"{1:2}"#),
        text("wrong_closer", r#"{"id":"i","route":{"curr":"a"],"payload":1}"#),
        text("single_quotes", "{'id':'i'}"),
        text("comment", r#"{"id":"i",/**/"route":{"curr":"a"},"payload":1}"#),
        text("payload_nan", &payload("NaN")),
        text("payload_infinity", &payload("-Infinity")),
        text("payload_leading_zero", &payload("01")),
        text("payload_plus", &payload("+1")),
        text("payload_dot", &payload("1.")),
        text("payload_exponent", &payload("1e")),
        text("payload_minus", &payload("-")),
        text("payload_hex", &payload("0x10")),
        text("payload_literal", &payload("tru")),
        text("payload_control_character", &payload("\"a\nb\"")),
        text("payload_bad_escape", &payload(r#""\x41""#)),
        text("payload_bad_unicode_escape", &payload(r#""\u12g4""#)),
        text("payload_array_comma", &payload("[1,]")),
        text("payload_object_comma", &payload(r#"{"a":1,}"#)),
        text("payload_missing_value", &payload("")),
        text("too_deep", &payload(&nested(MAX_DEPTH))),
        text("too_deep_in_headers", &format!(r#"{{"headers":{{"a":{}}}}}"#, nested(MAX_DEPTH - 1))),
        text("no_id", r#"{"route":{"curr":"a"},"payload":1}"#),
        text("no_route", r#"{"id":"i","payload":1}"#),
        text("no_payload", r#"{"id":"i","route":{"curr":"a"}}"#),
        text("no_curr", &route(r#"{"prev":[],"next":["a"]}"#)),
        text("route_empty_object", &route("{}")),
        text("empty_id", r#"{"id":"","route":{"curr":"a"},"payload":1}"#),
        text("empty_id_after_a_hop", r#"{"id":"","route":{"prev":["a"],"curr":"x-sump"},"payload":1}"#),
        text("id_number", r#"{"id":1,"route":{"curr":"a"},"payload":1}"#),
        text("id_null", r#"{"id":null,"route":{"curr":"a"},"payload":1}"#),
        text("id_lone_surrogate", r#"{"id":"\ud83d","route":{"curr":"a"},"payload":1}"#),
        text("field_name_lone_surrogate", r#"{"\ud83d":1}"#),
        text("parent_id_number", r#"{"id":"i","parent_id":1,"route":{"curr":"a"},"payload":1}"#),
        text("namespace_object", r#"{"id":"i","namespace":{},"route":{"curr":"a"},"payload":1}"#),
        text("route_null", &route("null")),
        text("route_array", &route("[]")),
        text("prev_not_list", &route(r#"{"prev":"a","curr":"b"}"#)),
        text("prev_of_numbers", &route(r#"{"prev":[1],"curr":"b"}"#)),
        text("curr_not_string", &route(r#"{"curr":1}"#)),
        text("curr_null", &route(r#"{"curr":null}"#)),
        text("next_not_list", &route(r#"{"curr":"b","next":{}}"#)),
        text("next_of_nulls", &route(r#"{"curr":"b","next":[null]}"#)),
        text("prev_empty_name", &route(r#"{"prev":[""],"curr":"b"}"#)),
        text("next_empty_name", &route(r#"{"curr":"b","next":["c",""]}"#)),
        text("finished_but_next", &route(r#"{"curr":"","next":["c"]}"#)),
        text("both_shapes", &route(r#"{"curr":"a","actors":["a"]}"#)),
        text("current_without_actors", &route(r#"{"current":0}"#)),
        text("actors_empty", &route(r#"{"actors":[],"current":0}"#)),
        text("actors_empty_name", &route(r#"{"actors":["a",""],"current":0}"#)),
        text("actors_empty_current_name", &route(r#"{"actors":[""],"current":0}"#)),
        text("actors_not_list", &route(r#"{"actors":"a"}"#)),
        text("current_negative", &route(r#"{"actors":["a"],"current":-1}"#)),
        text("current_too_large", &route(r#"{"actors":["a"],"current":2}"#)),
        text("current_huge", &route(r#"{"actors":["a"],"current":99999999999999999999999}"#)),
        text("current_fraction", &route(r#"{"actors":["a"],"current":0.0}"#)),
        text("current_string", &route(r#"{"actors":["a"],"current":"0"}"#)),
        text("headers_array", r#"{"id":"i","headers":[],"route":{"curr":"a"},"payload":1}"#),
        text("headers_null", r#"{"id":"i","headers":null,"route":{"curr":"a"},"payload":1}"#),
        text("status_string", &status("\"pending\"")),
        text("status_without_phase", &status("{}")),
        text("status_unknown_phase", &status(r#"{"phase":"Pending"}"#)),
        text("status_phase_number", &status(r#"{"phase":1}"#)),
        text("status_attempt_negative", &status(r#"{"phase":"pending","attempt":-1}"#)),
        text("status_attempt_too_large", &status(r#"{"phase":"pending","attempt":4294967296}"#)),
        text("status_error_string", &status(r#"{"phase":"failed","error":"boom"}"#)),
        text("status_mro_string", &status(r#"{"phase":"failed","error":{"mro":"Exception"}}"#)),
        text("duplicate_id", r#"{"id":"i","id":"i","route":{"curr":"a"},"payload":1}"#),
        text("duplicate_payload", r#"{"id":"i","route":{"curr":"a"},"payload":1,"payload":2}"#),
        text("duplicate_escaped", r#"{"id":"i","\u0069d":"j","route":{"curr":"a"},"payload":1}"#),
        text("duplicate_in_route", &route(r#"{"curr":"a","curr":"b"}"#)),
        text("duplicate_in_status", &status(r#"{"phase":"failed","phase":"pending"}"#)),
        text("duplicate_unknown", r#"{"id":"i","x":1,"x":1,"route":{"curr":"a"},"payload":1}"#),
        text("reserved_route", r#"{"id":"i","route.x":1,"route":{"curr":"a"},"payload":1}"#),
        text("reserved_status", r#"{"id":"i","status.x":1,"route":{"curr":"a"},"payload":1}"#),
        text("too_many_extensions", &format!(r#"{{"id":"i","route":{{"curr":"a"}},"payload":1{many}}}"#)),
        text("blobs_null", &blobs("null")),
        text("blobs_of_strings", &blobs(r#"["AAAA"]"#)),
        text("blob_without_dtype", &blobs(r#"[{"shape":[3],"data":"AAAA"}]"#)),
        text("blob_without_shape", &blobs(r#"[{"dtype":"|u1","data":"AAAA"}]"#)),
        text("blob_without_data", &blobs(r#"[{"dtype":"|u1","shape":[3]}]"#)),
        text("blob_unknown_field", &blobs(r#"[{"dtype":"|u1","shape":[3],"data":"AAAA","order":"F"}]"#)),
        text("blob_duplicate_field", &blobs(r#"[{"dtype":"|u1","dtype":"|u1","shape":[3],"data":"AAAA"}]"#)),
        text("blob_dtype_number", &blobs(r#"[{"dtype":1,"shape":[3],"data":"AAAA"}]"#)),
        text("blob_shape_negative", &blobs(r#"[{"dtype":"|u1","shape":[-3],"data":"AAAA"}]"#)),
        text("blob_shape_nine_dims", &blobs(r#"[{"dtype":"|u1","shape":[1,1,1,1,1,1,1,1,3],"data":"AAAA"}]"#)),
        text("blob_data_not_base64", &blobs(r#"[{"dtype":"|u1","shape":[3],"data":"AA*A"}]"#)),
        text("blob_data_not_padded", &blobs(r#"[{"dtype":"|u1","shape":[2],"data":"AAA"}]"#)),
        text("blob_data_url_alphabet", &blobs(r#"[{"dtype":"|u1","shape":[3],"data":"_-_-"}]"#)),
        text("blob_object_dtype", &blobs(r#"[{"dtype":"|O8","shape":[3],"data":"AAAA"}]"#)),
        text("blob_raw_two_dims", &blobs(r#"[{"dtype":"raw","shape":[1,3],"data":"AAAA"}]"#)),
        text("blob_wrong_size", &blobs(r#"[{"dtype":"<f4","shape":[1],"data":"AAAA"}]"#)),
        text("blob_size_overflow", &blobs(r#"[{"dtype":"<f8","shape":[4294967296,4294967296],"data":""}]"#)),
        ("native_as_json", Json, plain(&small_head(), b"{\"n\":1}")),
    ]
}

/// Rewrites a trailer's field and its checksum.
fn forged(mut body: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let trailer = body.len() - TRAILER_LEN;
    body[trailer + at..trailer + at + bytes.len()].copy_from_slice(bytes);
    resealed(body)
}

/// Puts the right checksum on a body whose trailer or head was changed.
fn resealed(mut body: Vec<u8>) -> Vec<u8> {
    let trailer = body.len() - TRAILER_LEN;
    let head_len = u32::from_le_bytes(body[trailer + 20..trailer + 24].try_into().unwrap()) as usize;
    let checksum = crc32fast::hash(&body[trailer.saturating_sub(head_len)..trailer + 28]);
    body[trailer + 28..trailer + 32].copy_from_slice(&checksum.to_le_bytes());
    body
}

fn bad_native() -> Vec<Case> {
    let document = b"{\"n\":1}";
    let small = || plain(&small_head(), document);
    let len = small().len();
    let head_len = (len - TRAILER_LEN - document.len()) as u32;
    let changed = |at: usize| {
        let mut body = small();
        body[at] ^= 0x20;
        body
    };
    let cut = |from: usize, to: usize| {
        let mut body = small();
        body.drain(from..to);
        body
    };
    // Offsets to nowhere and tags that mean nothing.
    let mut corrupt = small();
    corrupt[document.len()..len - TRAILER_LEN].fill(0xff);
    let bad_headers = {
        let mut body =
            plain(&Head { headers: Headers::from_json(r#"{"kkkkkkkk":1}"#).unwrap(), ..small_head() }, document);
        let at = body.windows(8).position(|window| window == b"kkkkkkkk").unwrap();
        body[at + 8] = b'!';
        resealed(body)
    };
    let array_headers = {
        let mut body =
            plain(&Head { headers: Headers::from_json(r#"{"kkkkkkkk":1}"#).unwrap(), ..small_head() }, document);
        let at = body.windows(8).position(|window| window == b"kkkkkkkk").unwrap();
        body[at - 2..at + 12]
            .copy_from_slice(b"[0123456789  ]".map(|byte| if byte == b'0' { b' ' } else { byte }).as_slice());
        resealed(body)
    };
    let mut cases = vec![
        ("native_empty", Native, Vec::new()),
        ("native_too_short", Native, small()[len - TRAILER_LEN + 1..].to_vec()),
        (
            "native_json_body",
            Native,
            br#"{"id":"order-1","route":{"prev":[],"curr":"echo","next":[]},"payload":{"n":1}}"#.to_vec(),
        ),
        ("native_cut_at_end", Native, cut(len - 1, len)),
        ("native_cut_in_head", Native, cut(document.len() + 10, document.len() + 20)),
        ("native_cut_in_section", Native, cut(0, 1)),
        ("native_extra_bytes", Native, [b"x".as_slice(), &small()].concat()),
        ("native_bad_magic", Native, changed(len - 1)),
        ("native_version_0", Native, forged(small(), 24, &0_u16.to_le_bytes())),
        ("native_version_2", Native, forged(small(), 24, &2_u16.to_le_bytes())),
        ("native_bad_checksum_head", Native, changed(document.len() + 3)),
        ("native_bad_checksum_field", Native, changed(len - TRAILER_LEN + 12)),
        ("native_section_len_huge", Native, forged(small(), 0, &u64::MAX.to_le_bytes())),
        ("native_head_len_huge", Native, forged(small(), 20, &u32::MAX.to_le_bytes())),
        (
            "native_head_len_zero",
            Native,
            forged(forged(small(), 0, &(7 + u64::from(head_len)).to_le_bytes()), 20, &0_u32.to_le_bytes()),
        ),
        ("native_document_too_long", Native, forged(small(), 8, &8_u64.to_le_bytes())),
        ("native_document_too_short", Native, forged(small(), 8, &6_u64.to_le_bytes())),
        ("native_no_document", Native, plain(&small_head(), b"")),
        ("native_table_out_of_range", Native, forged(small(), 16, &1_u32.to_le_bytes())),
        ("native_table_huge", Native, forged(small(), 16, &u32::MAX.to_le_bytes())),
        ("native_corrupt_head", Native, resealed(corrupt)),
        ("native_headers_not_json", Native, bad_headers),
        ("native_headers_not_object", Native, array_headers),
        ("native_empty_id", Native, plain(&Head { id: String::new(), ..small_head() }, document)),
        (
            "native_route_gap",
            Native,
            plain(&Head { route: Route { next: vec!["a".to_owned()], ..Route::default() }, ..small_head() }, document),
        ),
        (
            "native_reserved_extension",
            Native,
            plain(&Head { extensions: vec![("payload".to_owned(), "1".to_owned())], ..small_head() }, document),
        ),
        (
            "native_extension_not_json",
            Native,
            plain(&Head { extensions: vec![("x".to_owned(), "1,\"id\":2".to_owned())], ..small_head() }, document),
        ),
        ("native_unknown_shape", Native, unknown_shape(small())),
    ];
    for (name, section, payload) in sections::bad() {
        cases.push((name, Native, with_section(&small_head(), &section, payload)));
    }
    cases
}

/// Finds the byte of the shape: the only one whose change from 0 to 1 makes the route an older one.
fn unknown_shape(body: Vec<u8>) -> Vec<u8> {
    let head = body.len() - TRAILER_LEN;
    for at in 0..head {
        let mut other = body.clone();
        other[at] = 1;
        let older = asya_envelope::decode(&resealed(other), Native);
        if body[at] == 0 && older.is_ok_and(|decoded| decoded.head.shape == RouteShape::Actors) {
            let mut unknown = body;
            unknown[at] = 2;
            return resealed(unknown);
        }
    }
    unreachable!("no byte holds the shape")
}
