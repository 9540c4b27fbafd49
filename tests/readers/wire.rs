//! The least of a Kafka client: hands batches to a broker as they are, and takes them back as they lie there. For librdkafka's mock broker, on loopback.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, BrokerId, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

const PATIENCE: Duration = Duration::from_secs(30);
/// Versions before the tagged fields, and before topics got numbers.
const PRODUCE: i16 = 7;
const FETCH: i16 = 11;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) fn connect(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        if !stream.peer_addr()?.ip().is_loopback() {
            return Err(format!("{address} is not on this machine").into());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn call<Q: Encodable, A: Decodable>(&mut self, key: ApiKey, version: i16, request: &Q) -> Outcome<A> {
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(1)
            .with_client_id(Some(StrBytes::from_static_str("unlatched-readers")));
        let mut message = BytesMut::new();
        header.encode(&mut message, key.request_header_version(version))?;
        request.encode(&mut message, version)?;
        self.0.write_all(&u32::try_from(message.len())?.to_be_bytes())?;
        self.0.write_all(&message)?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        self.0.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, key.response_header_version(version))?;
        let decoded = A::decode(&mut answer, version)?;
        if answer.has_remaining() { Err("bytes behind the answer".into()) } else { Ok(decoded) }
    }

    /// Sends a batch to partition 0 of `topic`; returns the offset that it got.
    pub(crate) fn produce(&mut self, topic: &str, batch: &[u8]) -> Outcome<i64> {
        let partition = PartitionProduceData::default().with_index(0).with_records(Some(Bytes::copy_from_slice(batch)));
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![partition]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let answer: ProduceResponse = self.call(ApiKey::Produce, PRODUCE, &request)?;
        let partition =
            answer.responses.first().and_then(|topic| topic.partition_responses.first()).ok_or("no answer")?;
        match partition.error_code {
            0 => Ok(partition.base_offset),
            code => Err(format!("the broker answers with error {code}").into()),
        }
    }

    /// All batches of partition 0 of `topic`, as they lie there.
    pub(crate) fn fetch(&mut self, topic: &str) -> Outcome<Vec<u8>> {
        let mut log = Vec::new();
        let mut offset = 0;
        loop {
            let partition = FetchPartition::default()
                .with_partition(0)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(100 << 20);
            let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(100)
                .with_max_bytes(100 << 20)
                .with_topics(vec![topic]);
            let answer: FetchResponse = self.call(ApiKey::Fetch, FETCH, &request)?;
            let partition = answer.responses.first().and_then(|topic| topic.partitions.first()).ok_or("no answer")?;
            if partition.error_code != 0 {
                return Err(format!("the broker answers with error {}", partition.error_code).into());
            }
            let records = partition.records.clone().unwrap_or_default();
            if offset >= partition.high_watermark {
                return Ok(log);
            }
            for batch in crate::text::cut(&records)? {
                let base = batch.first_chunk().map(|field| i64::from_be_bytes(*field)).ok_or("no base offset")?;
                let last = batch
                    .get(23..27)
                    .and_then(|field| field.try_into().ok())
                    .map(i32::from_be_bytes)
                    .ok_or("no header")?;
                offset = base + i64::from(last) + 1;
            }
            log.extend_from_slice(&records);
        }
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}
