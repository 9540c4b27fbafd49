"""librdkafka, through confluent-kafka, for tests/readers/run. Its own mock broker, on loopback, stands between it and us.

    librdkafka.py serve ORDER TOPIC...  starts the mock broker with the topics, has the batches of ORDER sent to the topics theirs-<codec>, prints
                                        «bootstrap HOST:PORT», and then answers each line «TOPIC OFFSET COUNT» on standard input with COUNT records
                                        of the topic from OFFSET on, as text.rs has them, and a line «end»
    librdkafka.py versions              what is installed
"""

import sys

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PATIENCE = 30


def text(field):
    return "-" if field is None else "x" + field.hex()


def length(field):
    return -1 if field is None else len(field)


def parse(line):
    kind, *fields = line.split()
    return kind, dict(field.split("=", 1) for field in fields)


def data(field):
    return None if field == "-" else bytes.fromhex(field[1:])


def producer(bootstrap, codec, idempotent):
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.codec": codec,
            "enable.idempotence": idempotent,
            "message.max.bytes": 10_000_000,
            "linger.ms": 10_000,  # a flush ends it
        }
    )


def send(bootstrap, order):
    clients, failed = {}, []

    def delivered(error, _):
        if error is not None:
            failed.append(error)

    client = topic = None
    with open(order, encoding="ascii") as lines:
        for line in lines:
            kind, fields = parse(line)
            if kind == "batch":
                if client is not None:
                    assert client.flush(PATIENCE) == 0, "all of a batch is sent before the next one begins"
                what = (fields["codec"], fields["producer_id"] != "-1")
                if what not in clients:
                    clients[what] = producer(bootstrap, *what)
                client, topic = clients[what], "theirs-" + fields["codec"]
            else:
                headers = [header.split(":") for header in fields["headers"].split(",") if header]
                client.produce(
                    topic,
                    partition=0,
                    key=data(fields["key"]),
                    value=data(fields["value"]),
                    timestamp=int(fields["timestamp"]),
                    headers=[(data(name).decode(), data(value)) for name, value in headers],
                    on_delivery=delivered,
                )
    assert client.flush(PATIENCE) == 0, "all is sent"
    assert not failed, failed


def consume(bootstrap, topic, offset, count):
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "readers",
            "check.crcs": True,
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "fetch.message.max.bytes": 10_000_000,
            "auto.offset.reset": "error",
        }
    )
    consumer.assign([TopicPartition(topic, 0, offset)])
    for _ in range(count):
        record = consumer.poll(PATIENCE)
        if record is None:
            print(f"nothing comes within {PATIENCE} s")
            break
        if record.error() is not None:
            print(f"error: {record.error()}")
            break
        # Message.headers() gives names as str; an empty list is None.
        headers = [(text(name.encode()), text(value)) for name, value in record.headers() or []]
        kind, timestamp = record.timestamp()
        if kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE:
            timestamp = -1
        print(
            f"record offset={record.offset()} timestamp={timestamp} key={text(record.key())} key_size={length(record.key())}"
            f" value={text(record.value())} value_size={length(record.value())} headers={','.join(map(':'.join, headers))}"
            f" header_names={','.join(name for name, _ in headers)}"
        )
    consumer.close()


def serve(order, *topics):
    # One client that does nothing but keep the mock broker alive.
    mock = Producer({"test.mock.num.brokers": 1, "log_level": 4})
    (broker,) = mock.list_topics(timeout=PATIENCE).brokers.values()
    bootstrap = f"{broker.host}:{broker.port}"
    assert broker.host in ("127.0.0.1", "localhost"), broker.host
    for topic in [*topics, *("theirs-" + codec for codec in CODECS)]:
        mock.list_topics(topic, PATIENCE)
    send(bootstrap, order)
    print(f"bootstrap {bootstrap}", flush=True)
    for line in sys.stdin:
        topic, offset, count = line.split()
        consume(bootstrap, topic, int(offset), int(count))
        print("end", flush=True)


def versions():
    print(f"librdkafka {confluent_kafka.libversion()[0]} (confluent-kafka {confluent_kafka.version()})")


if __name__ == "__main__":
    {"serve": serve, "versions": versions}[sys.argv[1]](*sys.argv[2:])
