//! The payload section (docs/RING.md, section 4): a JSON document, a table of blobs, the blobs. Here are its layout,
//! the reading of a table that came from outside, and the writing of a new one. Offsets count from the section's start.

use std::ops::Range;

use crate::Payload;

/// The table and every blob start at a multiple of this.
pub const ALIGN: u64 = 64;
/// Bytes of one table entry.
pub const ENTRY_LEN: usize = 128;
/// Most dimensions of an array.
pub const MAX_DIMS: usize = 8;
/// Most bytes of a dtype.
pub const MAX_DTYPE: usize = 16;
/// The dtype of plain bytes.
pub const RAW: &str = "raw";
/// The single key of the object that stands for a blob in the document.
pub const KEY: &str = "$asya.blob";

const NDIM_AT: usize = 16;
const FLAGS_AT: usize = 20;
const SHAPE_AT: usize = 24;
const OFFSET_AT: usize = 88;
const LEN_AT: usize = 96;
const RESERVED_AT: usize = 104;

/// What is wrong with a table of blobs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The document, the table or the padding between them does not fit into the section.
    #[error("the table of {blobs} blobs does not fit into a section of {len} bytes")]
    TableOutOfRange {
        /// How many blobs there should be.
        blobs: u32,
        /// Length of the section.
        len: u64,
    },
    /// A section without blobs is longer than its document, or shorter.
    #[error("a section without blobs has {len} bytes but a document of {document_len}")]
    WrongLength {
        /// Length of the section.
        len: u64,
        /// Length of the document.
        document_len: u64,
    },
    /// A blob does not lie inside the section.
    #[error("blob {blob} does not lie inside the section")]
    OutOfRange {
        /// Which.
        blob: u32,
    },
    /// A blob starts where none may.
    #[error("blob {blob} does not start at a multiple of 64")]
    Misaligned {
        /// Which.
        blob: u32,
    },
    /// A blob overlaps the table or the blob before it.
    #[error("blob {blob} overlaps what comes before it")]
    Overlap {
        /// Which.
        blob: u32,
    },
    /// The dtype is neither `raw` nor a NumPy typestr.
    #[error("blob {blob} has an unknown dtype")]
    UnknownDtype {
        /// Which.
        blob: u32,
    },
    /// Too many dimensions, or a `raw` blob that has not exactly one.
    #[error("blob {blob} has a wrong number of dimensions")]
    WrongDims {
        /// Which.
        blob: u32,
    },
    /// The length is not that of an array of such a dtype and shape.
    #[error("blob {blob} is not as long as its dtype and shape say")]
    WrongSize {
        /// Which.
        blob: u32,
    },
    /// Bytes that must be zero in this version are not.
    #[error("blob {blob} uses reserved bytes of its entry")]
    Reserved {
        /// Which.
        blob: u32,
    },
}

impl BlobError {
    /// A stable name in snake case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TableOutOfRange { .. } => "table_out_of_range",
            Self::WrongLength { .. } => "section_wrong_length",
            Self::OutOfRange { .. } => "blob_out_of_range",
            Self::Misaligned { .. } => "blob_misaligned",
            Self::Overlap { .. } => "blob_overlap",
            Self::UnknownDtype { .. } => "blob_unknown_dtype",
            Self::WrongDims { .. } => "blob_wrong_dims",
            Self::WrongSize { .. } => "blob_wrong_size",
            Self::Reserved { .. } => "blob_reserved",
        }
    }
}

/// One blob: what it is and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// A NumPy typestr such as `<f4`, or [`RAW`].
    pub dtype: String,
    /// Length of each dimension, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Bytes from the start of the section.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl BlobInfo {
    /// Where its bytes are in a section that is in memory.
    pub fn range(&self) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        Some(start..start.checked_add(usize::try_from(self.len).ok()?)?)
    }
}

/// The next multiple of [`ALIGN`]; `None` past the end of `u64`.
pub fn align(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(ALIGN)
}

/// Where the table of a section lies: its start and the end of its last entry.
pub fn table_range(document_len: u64, blobs: u32) -> Option<Range<u64>> {
    let start = align(document_len)?;
    let end = start.checked_add(u64::from(blobs) * ENTRY_LEN as u64)?;
    Some(start..end)
}

/// Bytes of one item of `dtype`; `None` when it is neither [`RAW`] nor a typestr of plain data.
pub fn item_len(dtype: &str) -> Option<u64> {
    if dtype == RAW {
        return Some(1);
    }
    if dtype.len() > MAX_DTYPE || !dtype.is_ascii() {
        return None;
    }
    let rest = dtype.strip_prefix(['<', '>', '|'])?;
    let kind = rest.chars().next()?;
    let digits = rest.get(1..)?;
    // Times carry their unit: `<M8[ns]`.
    let digits = match (kind, digits.split_once('[')) {
        ('m' | 'M', Some((digits, unit))) if unit.ends_with(']') => digits,
        (_, Some(_)) => return None,
        (_, None) => digits,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let size: u64 = digits.parse().ok()?;
    match kind {
        'b' | 'i' | 'u' | 'f' | 'c' | 'm' | 'M' | 'S' | 'V' => Some(size),
        'U' => size.checked_mul(4),
        _ => None,
    }
}

/// Checks one blob's description against its length.
pub fn check_kind(blob: u32, dtype: &str, shape: &[u64], len: u64) -> Result<(), BlobError> {
    let item = item_len(dtype).ok_or(BlobError::UnknownDtype { blob })?;
    if shape.len() > MAX_DIMS || (dtype == RAW && shape.len() != 1) {
        return Err(BlobError::WrongDims { blob });
    }
    let bytes = shape.iter().try_fold(item, |bytes, &dim| bytes.checked_mul(dim));
    // A zero among the dimensions makes an empty array, whatever the others are.
    let bytes = if shape.contains(&0) { Some(0) } else { bytes };
    if bytes == Some(len) { Ok(()) } else { Err(BlobError::WrongSize { blob }) }
}

/// Reads and checks the table of a section. `section` is its bytes; [`Payload::offset`] is not looked at.
pub fn read_table(section: &[u8], payload: Payload) -> Result<Vec<BlobInfo>, BlobError> {
    let mut blobs = Vec::new();
    walk_table(section, payload, |blob| blobs.push(blob))?;
    Ok(blobs)
}

/// Checks the table of a section, as [`read_table`] does.
pub fn check_table(section: &[u8], payload: Payload) -> Result<(), BlobError> {
    walk_table(section, payload, drop)
}

fn walk_table(section: &[u8], payload: Payload, mut visit: impl FnMut(BlobInfo)) -> Result<(), BlobError> {
    let Payload { document_len, len, blobs, .. } = payload;
    if section.len() as u64 != len || document_len > len || (blobs == 0 && document_len != len) {
        return Err(BlobError::WrongLength { len, document_len });
    }
    if blobs == 0 {
        return Ok(());
    }
    let out_of_range = BlobError::TableOutOfRange { blobs, len };
    let table = table_range(document_len, blobs).filter(|table| table.end <= len).ok_or(out_of_range.clone())?;
    // Both ends are at most `len`, which is the length of a slice.
    let bytes = section.get(table.start as usize..table.end as usize).ok_or(out_of_range)?;
    let mut free_from = table.end;
    for (blob, entry) in (0_u32..).zip(bytes.as_chunks::<ENTRY_LEN>().0) {
        let info = read_entry(blob, entry)?;
        check_kind(blob, &info.dtype, &info.shape, info.len)?;
        if info.offset % ALIGN != 0 {
            return Err(BlobError::Misaligned { blob });
        }
        if info.offset < free_from {
            return Err(BlobError::Overlap { blob });
        }
        free_from = match info.offset.checked_add(info.len) {
            Some(end) if end <= len => end,
            _ => return Err(BlobError::OutOfRange { blob }),
        };
        visit(info);
    }
    Ok(())
}

/// Reads one entry; what it says of its place is not checked here.
fn read_entry(blob: u32, entry: &[u8; ENTRY_LEN]) -> Result<BlobInfo, BlobError> {
    let (dtype, _) = entry.split_at(MAX_DTYPE);
    let used = dtype.iter().position(|&byte| byte == 0).unwrap_or(MAX_DTYPE);
    let (dtype, padding) = dtype.split_at(used);
    let dtype = std::str::from_utf8(dtype).map_err(|_| BlobError::UnknownDtype { blob })?;
    let dims = u32_at(entry, NDIM_AT) as usize;
    if dims > MAX_DIMS {
        return Err(BlobError::WrongDims { blob });
    }
    let mut shape: Vec<u64> = (0..MAX_DIMS).map(|dim| u64_at(entry, SHAPE_AT + dim * 8)).collect();
    let unused = shape.split_off(dims);
    let zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    let reserved = entry.get(RESERVED_AT..).unwrap_or_default();
    if u32_at(entry, FLAGS_AT) != 0 || !zero(reserved) || !zero(padding) || unused.iter().any(|&dim| dim != 0) {
        return Err(BlobError::Reserved { blob });
    }
    Ok(BlobInfo { dtype: dtype.to_owned(), shape, offset: u64_at(entry, OFFSET_AT), len: u64_at(entry, LEN_AT) })
}

/// Writes one entry. The description must have passed [`check_kind`].
pub fn write_entry(entry: &mut [u8; ENTRY_LEN], blob: &BlobInfo) {
    entry.fill(0);
    for (to, from) in entry.iter_mut().zip(blob.dtype.bytes().take(MAX_DTYPE)) {
        *to = from;
    }
    put(entry, NDIM_AT, &(blob.shape.len().min(MAX_DIMS) as u32).to_le_bytes());
    for (dim, size) in blob.shape.iter().take(MAX_DIMS).enumerate() {
        put(entry, SHAPE_AT + dim * 8, &size.to_le_bytes());
    }
    put(entry, OFFSET_AT, &blob.offset.to_le_bytes());
    put(entry, LEN_AT, &blob.len.to_le_bytes());
}

/// Places blobs of these lengths one after another behind a document. Gives their offsets and the section's length;
/// `None` when that is beyond `u64`, or there are more blobs than a table can count.
pub fn place(document_len: u64, lens: impl ExactSizeIterator<Item = u64>) -> Option<(Vec<u64>, u64)> {
    if lens.len() == 0 {
        return Some((Vec::new(), document_len));
    }
    let mut end = table_range(document_len, u32::try_from(lens.len()).ok()?)?.end;
    let mut offsets = Vec::with_capacity(lens.len());
    for len in lens {
        let offset = align(end)?;
        offsets.push(offset);
        end = offset.checked_add(len)?;
    }
    Some((offsets, end))
}

fn put(entry: &mut [u8; ENTRY_LEN], at: usize, bytes: &[u8]) {
    for (to, from) in entry.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
