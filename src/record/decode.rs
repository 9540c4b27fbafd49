//! Reading batches that may come from anywhere.
//!
//! The decoder trusts nothing. Every count and length is checked against the bytes that are left
//! before it is used, so a hostile batch costs at most one pass over its own bytes. Nothing here
//! panics, allocates or copies: keys, values and headers are slices of the input, or, of a compressed batch, of the space that the caller gave
//! for its records.

use super::codec::Decoder;
use super::crc::crc32c;
use super::entry::Header;
use super::error::{DecodeError, Field};
use super::header::{
    ATTRIBUTES, BATCH_LENGTH, BATCH_OVERHEAD, BatchHeader, Codec, LENGTH_END, MAGIC, MAGIC_AT, NO_SEQUENCE,
    TimestampType,
};
use super::sequence::increment_sequence;
use super::varint::{VarintError, read_varint, read_varlong};

/// One batch, whose header and checksum have been found good.
///
/// The records behind the header are read, and judged, by [`records`](Self::records); to judge
/// them all at once call [`validate`](Self::validate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBatch<'a> {
    header: BatchHeader,
    codec: Codec,
    bytes: &'a [u8],
}

impl<'a> RecordBatch<'a> {
    /// Total bytes of the batch at the front of `bytes`, read off its length field alone.
    ///
    /// `None` if the length field is not there yet. For readers of a log or a socket, who need to
    /// know how much to read; the batch itself need not be there.
    ///
    /// # Errors
    ///
    /// [`DecodeError::BatchTooSmall`] if the length is negative or too small for a header.
    ///
    /// ```
    /// use unlatched::record::RecordBatch;
    /// assert_eq!(RecordBatch::peek_len(&[0; 11]), Ok(None));
    /// assert_eq!(RecordBatch::peek_len(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64]), Ok(Some(76)));
    /// assert!(RecordBatch::peek_len(&[0; 12]).is_err());
    /// ```
    pub fn peek_len(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some(length) = bytes.get(BATCH_LENGTH).and_then(|field| field.try_into().ok()) else {
            return Ok(None);
        };
        let batch_length = i32::from_be_bytes(length);
        match usize::try_from(batch_length) {
            Ok(length) if length + LENGTH_END >= BATCH_OVERHEAD => Ok(Some(length + LENGTH_END)),
            _ => Err(DecodeError::BatchTooSmall { batch_length }),
        }
    }

    /// Reads the batch at the front of `bytes`; returns it with the bytes behind it.
    ///
    /// Checks magic, length, checksum, codec and the sign of the record count. Does not look at the
    /// records. Kafka: `DefaultRecordBatch.ensureValid`.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if the batch is not there whole;
    /// [`UnsupportedMagic`](DecodeError::UnsupportedMagic),
    /// [`BatchTooSmall`](DecodeError::BatchTooSmall), [`CrcMismatch`](DecodeError::CrcMismatch),
    /// [`UnknownCodec`](DecodeError::UnknownCodec) and
    /// [`NegativeRecordsCount`](DecodeError::NegativeRecordsCount) as they say.
    pub fn parse(bytes: &'a [u8]) -> Result<(RecordBatch<'a>, &'a [u8]), DecodeError> {
        // The magic byte first: what the length means depends on it.
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return Err(DecodeError::UnsupportedMagic { magic: magic as i8 });
        }
        let needed = Self::peek_len(bytes)?.unwrap_or(BATCH_OVERHEAD);
        let truncated = DecodeError::Truncated { needed, available: bytes.len() };
        let (batch, rest) = bytes.split_at_checked(needed).ok_or(truncated)?;
        let header = BatchHeader::from_bytes(batch.first_chunk().ok_or(truncated)?);

        let computed = crc32c(&batch[ATTRIBUTES.start..]);
        if computed != header.crc {
            return Err(DecodeError::CrcMismatch { stored: header.crc, computed });
        }
        let id = header.attributes.codec_id();
        let codec = Codec::from_id(id).ok_or(DecodeError::UnknownCodec { id })?;
        if header.records_count < 0 {
            return Err(DecodeError::NegativeRecordsCount { count: header.records_count });
        }
        Ok((RecordBatch { header, codec, bytes: batch }, rest))
    }

    /// The header's fields.
    #[inline]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// How the records are compressed.
    #[inline]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Offset of the first record.
    #[inline]
    pub fn base_offset(&self) -> i64 {
        self.header.base_offset
    }

    /// Offset of the last record; after compaction, of the last one there was.
    #[inline]
    pub fn last_offset(&self) -> i64 {
        self.header.base_offset.wrapping_add(i64::from(self.header.last_offset_delta))
    }

    /// Sequence of the last record, or [`NO_SEQUENCE`].
    #[inline]
    pub fn last_sequence(&self) -> i32 {
        sequence_of(&self.header, self.header.last_offset_delta)
    }

    /// The time at which a compacting broker may drop the batch's tombstones, in milliseconds, if
    /// it set one. Kafka: `DefaultRecordBatch.deleteHorizonMs`.
    #[inline]
    pub fn delete_horizon(&self) -> Option<i64> {
        self.header.attributes.has_delete_horizon().then_some(self.header.base_timestamp)
    }

    /// Bytes of the whole batch, header included.
    #[inline]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The whole batch.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What lies behind the header: records, or one compressed stream of them.
    #[inline]
    pub fn records_bytes(&self) -> &'a [u8] {
        &self.bytes[BATCH_OVERHEAD..]
    }

    /// Reads the records one by one.
    ///
    /// The iterator ends after the first error. It yields one if the bytes hold fewer or more
    /// records than the header says, so a walk without an error has seen the batch whole.
    /// Of a compressed batch it yields [`DecodeError::Compressed`]: see [`decompress`](Self::decompress).
    /// Kafka: `DefaultRecordBatch.iterator`, `DefaultRecord.readFrom`.
    #[inline]
    pub fn records(&self) -> Records<'a> {
        Records::new(self.header, self.codec, self.bytes)
    }

    /// As [`records`](Self::records), decompressed if need be: then they lie in `space`, which grows by at most `limit` bytes of records and a header. What was in
    /// `space` is gone.
    ///
    /// # Errors
    /// [`DecodeError::Stream`] if the records cannot be decompressed, or have more than `limit` bytes.
    ///
    /// ```
    /// use unlatched::record::codec::{Compression, DEFAULT_LIMIT, Decoder, Encoder};
    /// use unlatched::record::{BATCH_OVERHEAD, Codec, HeaderSpec, Record, RecordBatch, encode_record, write_batch_header};
    ///
    /// let mut records = [0; 100];
    /// let record = Record { value: Some(&[b'z'; 80]), ..Record::default() };
    /// let len = encode_record(&mut records, 0, 0, &record);
    /// let mut batch = vec![0; BATCH_OVERHEAD];
    /// let mut encoder = Encoder::new(Compression::new(Codec::Zstd)).unwrap();
    /// encoder.write(&records[..len], &mut batch)?;
    /// encoder.finish(&mut batch)?;
    /// write_batch_header(&mut batch, &HeaderSpec { records_count: 1, codec: Codec::Zstd, ..HeaderSpec::default() })?;
    ///
    /// let (batch, _) = RecordBatch::parse(&batch)?;
    /// let mut space = Vec::new();
    /// let mut read = batch.decompress(&mut Decoder::default(), DEFAULT_LIMIT, &mut space)?;
    /// assert_eq!(read.next().unwrap()?.value, record.value);
    /// assert!(read.next().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn decompress<'s>(
        &self,
        decoder: &mut Decoder,
        limit: usize,
        space: &'s mut Vec<u8>,
    ) -> Result<Records<'s>, DecodeError>
    where
        'a: 's,
    {
        if self.codec == Codec::None {
            return Ok(self.records());
        }
        space.clear();
        space.extend_from_slice(&self.bytes[..BATCH_OVERHEAD]);
        let fault = |fault| DecodeError::Stream { codec: self.codec, fault };
        decoder.decompress(self.codec, self.records_bytes(), limit, space).map_err(fault)?;
        Ok(self.records_in(space))
    }

    /// The records in `image`: the batch itself if it is not compressed, otherwise what [`decompress`](Self::decompress) has made of it in its `space`. For those who keep the space.
    ///
    /// Anything else is read as far as it goes; the iterator says so, and never panics.
    #[inline]
    pub fn records_in<'s>(&self, image: &'s [u8]) -> Records<'s> {
        Records::new(self.header, Codec::None, image)
    }

    /// Reads all records and returns the first error, if there is one.
    ///
    /// # Errors
    ///
    /// Whatever [`records`](Self::records) yields.
    pub fn validate(&self) -> Result<(), DecodeError> {
        self.records().try_for_each(|record| record.map(drop))
    }
}

/// Sequence of the record with this offset delta.
#[inline]
fn sequence_of(header: &BatchHeader, offset_delta: i32) -> i32 {
    if header.base_sequence >= 0 { increment_sequence(header.base_sequence, offset_delta as u32) } else { NO_SEQUENCE }
}

/// A record as it was read. It borrows from the bytes given to the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedRecord<'a> {
    /// Its offset: the batch's base offset and its delta.
    pub offset: i64,
    /// Milliseconds since 1970: its own, or the batch's in a batch of log-append time.
    pub timestamp: i64,
    /// Its sequence, or [`NO_SEQUENCE`].
    pub sequence: i32,
    /// Its attribute byte. No bit has a meaning yet.
    pub attributes: u8,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// Bytes it takes in the batch, with its length varint.
    pub size: usize,
}

/// Iterator over the records of a batch; see [`RecordBatch::records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    /// How what the cursor walks over is compressed.
    codec: Codec,
    cursor: Cursor<'a>,
    /// Records read so far.
    found: i32,
    /// The next record's offset delta must be at least this. Wider than a delta: it may end one
    /// above the largest.
    least_delta: i64,
    done: bool,
}

impl<'a> Records<'a> {
    /// Those behind the header at the front of `bytes`.
    #[inline]
    fn new(header: BatchHeader, codec: Codec, bytes: &'a [u8]) -> Self {
        let cursor = Cursor { bytes, at: BATCH_OVERHEAD.min(bytes.len()) };
        Records { header, codec, cursor, found: 0, least_delta: 0, done: false }
    }

    /// Lets go of the bytes, to go on later.
    #[inline]
    pub(crate) fn pause(self) -> PausedRecords {
        let Self { header, codec, cursor: Cursor { at, .. }, found, least_delta, done } = self;
        PausedRecords { header, codec, at, found, least_delta, done }
    }

    fn step(&mut self) -> Result<Option<DecodedRecord<'a>>, DecodeError> {
        let declared = self.header.records_count;
        if self.codec != Codec::None {
            return Err(DecodeError::Compressed { codec: self.codec });
        }
        let left = self.cursor.left();
        if self.found == declared {
            return if left == 0 {
                Ok(None)
            } else {
                Err(DecodeError::ExcessBytes { declared, position: self.cursor.at, extra: left })
            };
        }
        if left == 0 {
            return Err(DecodeError::MissingRecords { declared, found: self.found });
        }
        let record = self.read_record()?;
        self.found += 1;
        Ok(Some(record))
    }

    fn read_record(&mut self) -> Result<DecodedRecord<'a>, DecodeError> {
        let header = &self.header;
        let record_start = self.cursor.at;
        let mut body = self.cursor.body()?;
        let body_start = body.at;

        let attributes = body.byte(Field::Attributes)?;
        let timestamp_delta = body.varlong(Field::TimestampDelta)?;
        let delta_at = body.at;
        let delta = body.varint(Field::OffsetDelta)?;
        let most = header.last_offset_delta;
        if i64::from(delta) < self.least_delta || delta > most {
            let (position, least) = (delta_at, self.least_delta);
            return Err(DecodeError::OffsetDeltaOutOfRange { position, delta, least, most });
        }
        let key = body.nullable(Field::Key)?;
        let value = body.nullable(Field::Value)?;
        let headers = body.headers()?;
        if body.left() > 0 {
            return Err(DecodeError::BodyLengthMismatch {
                position: body_start,
                declared: body.bytes.len() - body_start,
                consumed: body.at - body_start,
            });
        }

        self.least_delta = i64::from(delta) + 1;
        let timestamp = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => header.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        Ok(DecodedRecord {
            offset: header.base_offset.wrapping_add(i64::from(delta)),
            timestamp,
            sequence: sequence_of(header, delta),
            attributes,
            key,
            value,
            headers,
            size: self.cursor.at - record_start,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<DecodedRecord<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

impl std::iter::FusedIterator for Records<'_> {}

/// Where a walk over records stands. For who owns the bytes and cannot keep a borrow of them as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PausedRecords {
    header: BatchHeader,
    codec: Codec,
    at: usize,
    found: i32,
    least_delta: i64,
    done: bool,
}

impl PausedRecords {
    /// Goes on in `bytes`, which are those of before. Others are read as far as they go.
    #[inline]
    pub(crate) fn resume(self, bytes: &[u8]) -> Records<'_> {
        let Self { header, codec, at, found, least_delta, done } = self;
        Records { header, codec, cursor: Cursor { bytes, at: at.min(bytes.len()) }, found, least_delta, done }
    }
}

/// The headers of a record that was read. They have been checked; iterating cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in order.
    #[inline]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { cursor: Cursor { bytes: self.bytes, at: 0 }, left: self.count }
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    #[inline]
    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    #[inline]
    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterator over the headers of a record; see [`Headers::iter`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The same bytes were read without error when the record was.
        self.cursor.header().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}
impl std::iter::FusedIterator for HeaderIter<'_> {}

/// Iterates over the batches that lie one behind the other in `bytes`.
///
/// The iterator ends at the end of `bytes` or after the first error. A batch cut off at the end, as
/// brokers send in fetch responses, is [`DecodeError::Truncated`].
///
/// ```
/// use unlatched::record::{DecodeError, batches};
/// assert_eq!(batches(&[]).count(), 0);
/// assert!(matches!(batches(&[0; 5]).next(), Some(Err(DecodeError::Truncated { .. }))));
/// ```
#[inline]
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// Iterator over consecutive batches; see [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<RecordBatch<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match RecordBatch::parse(self.rest) {
            Ok((batch, rest)) => {
                self.rest = rest;
                Some(Ok(batch))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

impl std::iter::FusedIterator for Batches<'_> {}

/// A place in a batch. `bytes` ends where the present record (or the batch) ends, but begins where
/// the batch does, so that `at` is the position that errors report.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    /// Never above `bytes.len()`.
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The error for a field that needs more bytes than are left.
    fn too_long(&self, field: Field, needed: usize) -> DecodeError {
        DecodeError::FieldTooLong { field, position: self.at, needed, available: self.left() }
    }

    #[inline]
    fn take(&mut self, field: Field, len: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.rest().get(..len).ok_or_else(|| self.too_long(field, len))?;
        self.at += len;
        Ok(taken)
    }

    #[inline]
    fn byte(&mut self, field: Field) -> Result<u8, DecodeError> {
        let byte = *self.rest().first().ok_or_else(|| self.too_long(field, 1))?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self, field: Field) -> Result<i32, DecodeError> {
        let read = read_varint(self.rest());
        self.number(field, read)
    }

    #[inline]
    fn varlong(&mut self, field: Field) -> Result<i64, DecodeError> {
        let read = read_varlong(self.rest());
        self.number(field, read)
    }

    /// Moves over a number that was read, or turns its error into one with a place.
    #[inline]
    fn number<T>(&mut self, field: Field, read: Result<(T, usize), VarintError>) -> Result<T, DecodeError> {
        match read {
            Ok((value, len)) => {
                self.at += len;
                Ok(value)
            }
            Err(VarintError::Truncated) => Err(self.too_long(field, self.left() + 1)),
            Err(VarintError::TooLong) => Err(DecodeError::InvalidVarint { field, position: self.at }),
        }
    }

    /// A length that may be -1 for null.
    #[inline]
    fn length(&mut self, field: Field) -> Result<Option<usize>, DecodeError> {
        let position = self.at;
        match self.varint(field)? {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => Ok(Some(length)),
                Err(_) => Err(DecodeError::InvalidLength { field, position, length }),
            },
        }
    }

    /// A length that may not be null.
    #[inline]
    fn required_length(&mut self, field: Field) -> Result<usize, DecodeError> {
        let position = self.at;
        let length = self.length(field)?;
        length.ok_or(DecodeError::InvalidLength { field, position, length: -1 })
    }

    #[inline]
    fn nullable(&mut self, field: Field) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.length(field)? {
            Some(len) => self.take(field, len).map(Some),
            None => Ok(None),
        }
    }

    /// Moves over a record's length and body; returns a cursor confined to the body.
    #[inline]
    fn body(&mut self) -> Result<Cursor<'a>, DecodeError> {
        let len = self.required_length(Field::Body)?;
        let start = self.at;
        self.take(Field::Body, len)?;
        Ok(Cursor { bytes: &self.bytes[..self.at], at: start })
    }

    /// Checks and moves over the header count and the headers.
    #[inline]
    fn headers(&mut self) -> Result<Headers<'a>, DecodeError> {
        let position = self.at;
        let count = self.varint(Field::HeaderCount)?;
        let available = self.left();
        // A header takes two bytes at least.
        let count = match usize::try_from(count) {
            Ok(count) if count <= available / 2 => count,
            _ => {
                return Err(DecodeError::InvalidHeaderCount { position, count, available });
            }
        };
        let start = self.at;
        for _ in 0..count {
            self.header()?;
        }
        Ok(Headers { bytes: &self.bytes[start..self.at], count })
    }

    fn header(&mut self) -> Result<Header<'a>, DecodeError> {
        let len = self.required_length(Field::HeaderKey)?;
        let position = self.at;
        let key = self.take(Field::HeaderKey, len)?;
        let key = str::from_utf8(key).map_err(|_| DecodeError::InvalidHeaderKey { position })?;
        let value = self.nullable(Field::HeaderValue)?;
        Ok(Header { key, value })
    }
}
