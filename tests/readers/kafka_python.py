"""kafka-python's record classes, for tests/readers/run.

    kafka_python.py read LOG        prints the batches of LOG, as text.rs has them
    kafka_python.py write ORDER LOG writes the batches of ORDER, offsets assigned as a broker does
    kafka_python.py versions        what is installed
"""

import importlib.metadata
import struct
import sys

import kafka.codec
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def text(field):
    return "-" if field is None else "x" + bytes(field).hex()


def length(field):
    return -1 if field is None else len(field)


def read(path):
    with open(path, "rb") as log:
        records = MemoryRecords(log.read())
    out = []
    while records.has_next():
        batch = records.next_batch()
        # Before the records are read: it looks at the bytes as they came.
        valid = int(batch.validate_crc())
        out.append(
            f"batch base_offset={batch.base_offset} last_offset={batch.last_offset} bytes={batch.size_in_bytes} leader_epoch={batch.leader_epoch}"
            f" magic={batch.magic} crc={batch.crc:08x} valid={valid} attributes={batch.attributes} codec={CODECS[batch.compression_type]}"
            f" transactional={int(batch.is_transactional)} control={int(batch.is_control_batch)} timestamp_type={['create', 'append'][batch.timestamp_type]}"
            f" base_timestamp={batch.first_timestamp} max_timestamp={batch.max_timestamp} producer_id={batch.producer_id}"
            f" producer_epoch={batch.producer_epoch} base_sequence={batch.base_sequence} last_sequence={batch.last_sequence} count={batch.records_count}"
        )
        for record in batch:
            headers = ",".join(f"{text(name.encode())}:{text(value)}" for name, value in record.headers)
            names = ",".join(text(name.encode()) for name, _ in record.headers)
            out.append(
                f"record offset={record.offset} timestamp={record.timestamp} key={text(record.key)}"
                f" key_size={length(record.key)} value={text(record.value)} value_size={length(record.value)} headers={headers} header_names={names}"
            )
    print("\n".join(out))


def parse(line):
    kind, *fields = line.split()
    return kind, dict(field.split("=", 1) for field in fields)


def data(field):
    return None if field == "-" else bytes.fromhex(field[1:])


def write(order, path):
    offset, builder, count, written = 0, None, 0, bytearray()

    def close():
        nonlocal offset
        if builder is not None:
            batch = builder.build()
            struct.pack_into(">q", batch, 0, offset)
            written.extend(batch)
            offset += count

    with open(order, encoding="ascii") as lines:
        for line in lines:
            kind, fields = parse(line)
            if kind == "batch":
                close()
                count = 0
                builder = DefaultRecordBatchBuilder(
                    2,
                    CODECS.index(fields["codec"]),
                    fields["transactional"] == "1",
                    int(fields["producer_id"]),
                    int(fields["producer_epoch"]),
                    int(fields["base_sequence"]),
                    1 << 30,
                )
            else:
                headers = [header.split(":") for header in fields["headers"].split(",") if header]
                headers = [(data(name).decode(), data(value)) for name, value in headers]
                added = builder.append(count, int(fields["timestamp"]), data(fields["key"]), data(fields["value"]), headers)
                assert added is not None, "there is room"
                count += 1
    close()
    with open(path, "wb") as log:
        log.write(written)


def versions():
    version = importlib.metadata.version
    codecs = [name for name in CODECS[1:] if getattr(kafka.codec, f"has_{name}")()]
    print(f"kafka-python {version('kafka-python')} (codecs: {', '.join(codecs)})")


if __name__ == "__main__":
    {"read": read, "write": write, "versions": versions}[sys.argv[1]](*sys.argv[2:])
