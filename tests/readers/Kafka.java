import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.FileOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.DefaultRecordBatch;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.MutableRecordBatch;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.common.utils.Utils;

/**
 * Kafka's own record classes, for tests/readers/run.
 *
 * <pre>
 * Kafka read LOG        prints the batches of LOG, as text.rs has them
 * Kafka write ORDER LOG writes the batches of ORDER, with their offsets
 * Kafka versions        what is installed
 * </pre>
 */
final class Kafka {
    private static final HexFormat HEX = HexFormat.of();

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "read" -> read(Path.of(args[1]));
            case "write" -> write(Path.of(args[1]), Path.of(args[2]));
            case "versions" -> System.out.println("kafka-clients " + AppInfoParser.getVersion());
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    private static String text(ByteBuffer field) {
        return field == null ? "-" : "x" + HEX.formatHex(Utils.toArray(field));
    }

    private static String text(String name) {
        return "x" + HEX.formatHex(name.getBytes(StandardCharsets.UTF_8));
    }

    private static int bit(boolean set) {
        return set ? 1 : 0;
    }

    private static void read(Path log) throws Exception {
        StringBuilder out = new StringBuilder();
        MemoryRecords records = MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(log)));
        int bytes = 0;
        for (MutableRecordBatch batch : records.batches()) {
            batch.ensureValid();
            bytes += batch.sizeInBytes();
            DefaultRecordBatch whole = (DefaultRecordBatch) batch;
            out.append("batch base_offset=").append(batch.baseOffset()).append(" last_offset=").append(batch.lastOffset())
                .append(" bytes=").append(batch.sizeInBytes()).append(" leader_epoch=").append(batch.partitionLeaderEpoch())
                .append(" magic=").append(batch.magic()).append(" crc=").append(String.format("%08x", whole.checksum()))
                .append(" valid=").append(bit(batch.isValid())).append(" codec=").append(batch.compressionType().name)
                .append(" transactional=").append(bit(batch.isTransactional())).append(" control=").append(bit(batch.isControlBatch()))
                .append(" delete_horizon=").append(batch.deleteHorizonMs().isPresent() ? batch.deleteHorizonMs().getAsLong() : "-")
                .append(" timestamp_type=").append(batch.timestampType() == TimestampType.CREATE_TIME ? "create" : "append")
                .append(" base_timestamp=").append(whole.baseTimestamp()).append(" max_timestamp=").append(batch.maxTimestamp())
                .append(" producer_id=").append(batch.producerId()).append(" producer_epoch=").append(batch.producerEpoch())
                .append(" base_sequence=").append(batch.baseSequence()).append(" last_sequence=").append(batch.lastSequence())
                .append(" count=").append(batch.countOrNull()).append('\n');
            for (Record record : batch) {
                record.ensureValid();
                List<String> headers = new ArrayList<>();
                List<String> names = new ArrayList<>();
                for (Header header : record.headers()) {
                    byte[] value = header.value();
                    headers.add(text(header.key()) + ":" + text(value == null ? null : ByteBuffer.wrap(value)));
                    names.add(text(header.key()));
                }
                out.append("record offset=").append(record.offset()).append(" timestamp=").append(record.timestamp())
                    .append(" sequence=").append(record.sequence()).append(" bytes=").append(record.sizeInBytes())
                    .append(" key=").append(text(record.key())).append(" key_size=").append(record.keySize())
                    .append(" value=").append(text(record.value())).append(" value_size=").append(record.valueSize())
                    .append(" headers=").append(String.join(",", headers)).append(" header_names=").append(String.join(",", names))
                    .append('\n');
            }
        }
        if (bytes != records.sizeInBytes()) {
            throw new IllegalStateException(records.sizeInBytes() - bytes + " bytes are no batch");
        }
        System.out.print(out);
    }

    private static Map<String, String> fields(String line) {
        Map<String, String> fields = new HashMap<>();
        for (String word : line.split(" ")) {
            int at = word.indexOf('=');
            if (at > 0) {
                fields.put(word.substring(0, at), word.substring(at + 1));
            }
        }
        return fields;
    }

    private static byte[] data(String field) {
        return field.equals("-") ? null : HEX.parseHex(field.substring(1));
    }

    private static void write(Path order, Path log) throws Exception {
        long offset = 0;
        try (BufferedReader in = Files.newBufferedReader(order); FileOutputStream out = new FileOutputStream(log.toFile())) {
            String line = in.readLine();
            while (line != null) {
                Map<String, String> batch = fields(line);
                int count = Integer.parseInt(batch.get("count"));
                MemoryRecordsBuilder builder = MemoryRecords.builder(
                    ByteBuffer.allocate(1 << 16), RecordBatch.CURRENT_MAGIC_VALUE,
                    Compression.of(CompressionType.forName(batch.get("codec"))).build(), TimestampType.CREATE_TIME, offset,
                    RecordBatch.NO_TIMESTAMP, Long.parseLong(batch.get("producer_id")), Short.parseShort(batch.get("producer_epoch")),
                    Integer.parseInt(batch.get("base_sequence")), batch.get("transactional").equals("1"), 0);
                for (int index = 0; index < count; index++) {
                    Map<String, String> record = fields(in.readLine());
                    List<Header> headers = new ArrayList<>();
                    for (String header : record.get("headers").split(",")) {
                        if (!header.isEmpty()) {
                            String[] parts = header.split(":");
                            headers.add(new RecordHeader(new String(data(parts[0]), StandardCharsets.UTF_8), data(parts[1])));
                        }
                    }
                    builder.append(Long.parseLong(record.get("timestamp")), data(record.get("key")), data(record.get("value")),
                        headers.toArray(new Header[0]));
                }
                Utils.writeFully(out.getChannel(), builder.build().buffer());
                offset += count;
                line = in.readLine();
            }
        }
    }
}
