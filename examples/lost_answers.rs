//! What the producer makes of a broker that loses answers: it sends again, and without idempotence a record may then stand in the log twice.
//!
//! `cargo run --release --example lost_answers`
//!
//! A hundred records go to an embedded broker of one topic and one partition. The broker loses the answer to about every third request after having written its
//! batches. Every future still reports success; reading the log back shows which records stand there twice. Idempotence, when it is built, ends that.

use std::collections::BTreeMap;
use std::time::Duration;

use unlatched::broker::embedded::{EmbeddedBroker, Fault};
use unlatched::error::TopicPartition;
use unlatched::mutex::ParkingLotAccumulator;
use unlatched::producer::{Producer, ProducerConfig};
use unlatched::record::{NO_TIMESTAMP, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = EmbeddedBroker::builder().seed(7).open()?;
    broker.create_topic("letters", 1)?;
    broker.faults().inject(Fault::lose_response().rate(1.0 / 3.0));

    let mut config = ProducerConfig::default();
    // Small batches, so that there are many requests; a short wait for each answer, so that a lost one is noticed soon.
    config.accumulator.batch_size = 200;
    config.sender.request_timeout = Duration::from_millis(50);
    config.sender.guarantee_order = true;
    let producer = Producer::<ParkingLotAccumulator>::start(config, broker.connect()?)?;

    let letters = TopicPartition::new("letters", 0);
    let partition = producer.partition(&letters);
    let mut futures = Vec::new();
    for number in 0..100 {
        let text = format!("letter {number}");
        let record = Record { timestamp: NO_TIMESTAMP, value: Some(text.as_bytes()), ..Record::default() };
        futures.push((text.clone(), producer.send(&partition, record)?));
    }
    producer.flush(None)?;
    for (text, future) in futures {
        let place = future.wait()?;
        println!("{text}: acknowledged at offset {}", place.offset);
    }
    let stats = producer.stats();
    producer.close(Duration::from_secs(10))?;

    let mut copies = BTreeMap::<Vec<u8>, Vec<i64>>::new();
    for record in broker.read(&letters, 0)?.records() {
        let record = record?;
        copies.entry(record.value.unwrap_or_default().to_vec()).or_default().push(record.offset);
    }
    let twice = copies.values().filter(|offsets| offsets.len() > 1).count();
    println!(
        "{} records sent, {} of them sent again after a lost answer; {twice} stand in the log more than once",
        stats.completed, stats.retried
    );
    assert_eq!(copies.len(), 100, "every record is in the log");
    Ok(())
}
