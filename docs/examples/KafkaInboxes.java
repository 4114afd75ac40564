import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.cfg.JsonNodeFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Each event to each of its subscribers, exactly once: from a table's topic into one that is keyed by subscription id.
 *
 * <pre>java -cp 'libs/*' KafkaInboxes.java localhost:9092 realtime.public.book inboxes</pre>
 *
 * The bridge must run with `delivery: exactly_once`, and readers of the inboxes read committed messages only. Whatever
 * goes wrong ends the program; started again, it goes on after the last transaction that it has committed.
 */
public class KafkaInboxes {
    public static void main(String[] args) throws Exception {
        String servers = args[0], topic = args[1], inboxes = args[2];
        var json = JsonMapper.builder() // numbers keep every digit
                .enable(DeserializationFeature.USE_BIG_DECIMAL_FOR_FLOATS)
                .disable(JsonNodeFeature.STRIP_TRAILING_BIGDECIMAL_ZEROES)
                .build();
        Map<String, Object> reading = Map.of(
                "bootstrap.servers", servers,
                "group.id", inboxes,
                "group.instance.id", "1", // a known member has its place back at once
                "isolation.level", "read_committed", // Java's default is read_uncommitted
                "enable.auto.commit", false,
                "allow.auto.create.topics", false, // the bridge makes the topic, with its number of partitions
                "auto.offset.reset", "earliest");
        Map<String, Object> writing = Map.of("bootstrap.servers", servers, "transactional.id", inboxes + "-1");
        var bytes = new ByteArrayDeserializer();
        var text = new StringSerializer();
        try (var consumer = new KafkaConsumer<>(reading, bytes, bytes);
                var producer = new KafkaProducer<>(writing, text, text)) {
            producer.initTransactions(); // ends what a killed predecessor has left open
            consumer.subscribe(List.of(topic));
            while (true) {
                var records = consumer.poll(Duration.ofSeconds(1));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                var next = new HashMap<TopicPartition, OffsetAndMetadata>();
                for (var record : records) {
                    var event = json.readTree(record.value());
                    var wal = event.get("wal").toString(); // not the list of subscribers: that is not theirs to know
                    for (var subscription : event.get("subscription_ids")) {
                        var inbox = new ProducerRecord<>(inboxes, subscription.asText(), wal);
                        inbox.headers().add(record.headers().lastHeader("id"));
                        producer.send(inbox);
                    }
                    var partition = new TopicPartition(record.topic(), record.partition());
                    next.put(partition, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(next, consumer.groupMetadata());
                producer.commitTransaction();
            }
        }
    }
}
