//! The primitive values of the protocol.
//!
//! Takes a slice ([`Reader`], [`Table`]) or a `Vec` to append to (the `put_*` functions). Never blocks. A value that
//! runs past the end of its slice is a [`WireError`]; nothing here panics on any input.

/// A value that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("the frame ends inside {0}")]
    Short(&'static str),
    /// A field table has a value of a type that does not exist, so its end cannot be found.
    #[error("field table value of unknown type {0:#04x}")]
    UnknownType(u8),
}

/// Reads values one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything is read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    /// A text with one byte of length.
    pub fn short_str(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let len = self.u8(what)?;
        self.bytes(usize::from(len), what)
    }

    /// Bytes with four bytes of length.
    pub fn long_str(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let len = self.u32(what)?;
        self.bytes(len as usize, what)
    }

    /// A field table, unread.
    pub fn table(&mut self, what: &'static str) -> Result<Table<'a>, WireError> {
        Ok(Table(self.long_str(what)?))
    }
}

/// A field table in place. Its entries are read one at a time and nested tables only when asked for, so neither depth
/// nor number of entries costs memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table<'a>(&'a [u8]);

/// A value of a field table, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A truth value.
    Bool(bool),
    /// Any integer, widened.
    Int(i64),
    /// A text or byte string.
    Text(&'a [u8]),
    /// A nested table.
    Table(Table<'a>),
    /// Anything else: floating point, decimals, arrays, nothing.
    Other,
}

impl<'a> Table<'a> {
    /// Its entries in order. Ends after the first error.
    pub const fn entries(self) -> Entries<'a> {
        Entries { reader: Reader::new(self.0) }
    }

    /// The value called `name`; `None` when it is not there or the table is malformed before it.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.entries().map_while(Result::ok).find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }
}

/// See [`Table::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a [u8], Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let entry = entry(&mut self.reader);
        if entry.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(entry)
    }
}

fn entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Value<'a>), WireError> {
    const WHAT: &str = "a field table";
    let name = reader.short_str(WHAT)?;
    // The types are RabbitMQ's, which differ from the specification's: https://www.rabbitmq.com/amqp-0-9-1-errata
    let value = match reader.u8(WHAT)? {
        b't' => Value::Bool(reader.u8(WHAT)? != 0),
        b'b' => Value::Int(i64::from(reader.u8(WHAT)? as i8)),
        b'B' => Value::Int(i64::from(reader.u8(WHAT)?)),
        b's' | b'U' => Value::Int(i64::from(reader.u16(WHAT)? as i16)),
        b'u' => Value::Int(i64::from(reader.u16(WHAT)?)),
        b'I' => Value::Int(i64::from(reader.u32(WHAT)? as i32)),
        b'i' => Value::Int(i64::from(reader.u32(WHAT)?)),
        b'l' | b'L' | b'T' => Value::Int(reader.u64(WHAT)? as i64),
        b'S' | b'x' => Value::Text(reader.long_str(WHAT)?),
        b'F' => Value::Table(reader.table(WHAT)?),
        b'A' => {
            reader.long_str(WHAT)?;
            Value::Other
        }
        b'f' => skip(reader, 4)?,
        b'd' => skip(reader, 8)?,
        b'D' => skip(reader, 5)?,
        b'V' => Value::Other,
        other => return Err(WireError::UnknownType(other)),
    };
    Ok((name, value))
}

fn skip<'a>(reader: &mut Reader<'a>, len: usize) -> Result<Value<'a>, WireError> {
    reader.bytes(len, "a field table")?;
    Ok(Value::Other)
}

/// Appends two bytes.
pub fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends four bytes.
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends eight bytes.
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a short text: at most the first 255 bytes of it, cut between characters.
pub fn put_short_str(out: &mut Vec<u8>, text: &str) {
    let kept = &text[..text.floor_char_boundary(255)];
    out.push(kept.len() as u8);
    out.extend_from_slice(kept.as_bytes());
}

/// Appends bytes with four bytes of length.
pub fn put_long_str(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// A value to put into a field table.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A truth value.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// A nested table.
    Table(&'a [(&'a str, Field<'a>)]),
}

/// Appends a field table.
pub fn put_table(out: &mut Vec<u8>, fields: &[(&str, Field<'_>)]) {
    let start = out.len();
    put_u32(out, 0);
    for (name, field) in fields {
        put_short_str(out, name);
        match *field {
            Field::Bool(value) => out.extend_from_slice(&[b't', u8::from(value)]),
            Field::Int(value) => {
                out.push(b'l');
                put_u64(out, value as u64);
            }
            Field::Text(text) => {
                out.push(b'S');
                put_long_str(out, text.as_bytes());
            }
            Field::Table(nested) => {
                out.push(b'F');
                put_table(out, nested);
            }
        }
    }
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}
