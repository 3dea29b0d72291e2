import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Members of groups and producers of transactions, as remote_test.go orders them. */
public final class Workers {
    /** A line of standard input. */
    static final class Order {
        @JsonProperty("do") public String what;
        public String id;
        public String bootstrap;
        public String topic;
        public int partition;
        public String codec;
        public List<String> values;
        public String group;
        public String instance;
        public String pattern;
        public boolean committed;
        public String to;
        public String transaction;
        public String poison;
        public Map<String, String> settings = Map.of();

        /** Opens when the order's work is asked to end. */
        final CountDownLatch leave = new CountDownLatch(1);

        boolean left() {
            return leave.getCount() == 0;
        }

        void tell(String event, Map<String, Object> more) {
            Map<String, Object> line = new HashMap<>(more);
            line.put("id", id);
            line.put("event", event);
            synchronized (JSON) {
                try {
                    System.out.println(JSON.writeValueAsString(line));
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            }
        }

        void tellRecords(List<ConsumerRecord<String, String>> batch) {
            List<Map<String, Object>> records = new ArrayList<>();
            for (ConsumerRecord<String, String> r : batch) {
                records.add(Map.of("partition", r.partition(), "offset", r.offset(), "value", r.value()));
            }
            tell("records", Map.of("records", records));
        }
    }

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration WAIT = Duration.ofMillis(100);

    public static void main(String[] args) throws Exception {
        Map<String, Order> at = new ConcurrentHashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            Order order = JSON.readValue(line, Order.class);
            if (order.what.equals("leave")) {
                Order old = at.get(order.id);
                if (old != null) {
                    old.leave.countDown();
                }
                continue;
            }
            at.put(order.id, order);
            Thread work = new Thread(() -> {
                run(order);
                at.remove(order.id);
            });
            work.setDaemon(true);
            work.start();
        }
    }

    private static void run(Order o) {
        try {
            String text = "";
            switch (o.what) {
                case "write": write(o); break;
                case "join": join(o); break;
                case "pipe": pipe(o); break;
                case "fence": text = fence(o); break;
                case "streams": WordCount.run(o); break;
                default: throw new IllegalArgumentException("unknown order " + o.what);
            }
            o.tell("done", Map.of("text", text));
        } catch (Throwable e) {
            e.printStackTrace();
            o.tell("failed", Map.of("text", e.toString()));
        }
    }

    private static KafkaProducer<String, String> producer(Order o, Map<String, Object> more) {
        Map<String, Object> all = new HashMap<>(more);
        all.put("bootstrap.servers", o.bootstrap);
        return new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(Order o) {
        Map<String, Object> all = new HashMap<>(o.settings);
        all.put("bootstrap.servers", o.bootstrap);
        all.put("group.id", o.group);
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", "false");
        all.put("max.poll.records", "10");
        // Else a consumer that finds no agent forgets its topics, and has its group rebalance.
        all.put("metadata.recovery.strategy", "none");
        if (o.instance != null) {
            all.put("group.instance.id", o.instance);
        }
        if (o.committed) {
            all.put("isolation.level", "read_committed");
        }
        if (!"consumer".equals(o.settings.get("group.protocol"))) {
            all.put("heartbeat.interval.ms", "300"); // hears of a rebalance with a heartbeat
        }
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
        if (o.pattern != null) {
            consumer.subscribe(new SubscriptionPattern(o.pattern));
        } else {
            consumer.subscribe(List.of(o.topic));
        }
        return consumer;
    }

    private static void write(Order o) throws Exception {
        try (KafkaProducer<String, String> producer = producer(o, Map.of("compression.type", o.codec))) {
            List<Future<?>> sent = new ArrayList<>();
            for (String value : o.values) {
                sent.add(producer.send(new ProducerRecord<>(o.topic, o.partition, null, value)));
            }
            for (Future<?> one : sent) {
                one.get();
            }
        }
    }

    private static void join(Order o) {
        try (KafkaConsumer<String, String> consumer = consumer(o)) {
            Set<TopicPartition> had = Set.of();
            boolean owes = false; // a commit
            while (!o.left() || owes) {
                List<ConsumerRecord<String, String>> batch = new ArrayList<>();
                consumer.poll(WAIT).forEach(batch::add);
                Set<TopicPartition> has = Set.copyOf(consumer.assignment());
                if (!has.equals(had)) {
                    o.tell("assigned", Map.of("partitions", has.stream().map(TopicPartition::partition).toArray()));
                    had = has;
                }
                if (!batch.isEmpty()) {
                    o.tellRecords(batch);
                    owes = true;
                }
                if (owes) {
                    owes = !commit(consumer);
                }
            }
        }
    }

    /** Commits all that was polled; not while the group changes: then it is for later. */
    private static boolean commit(KafkaConsumer<String, String> consumer) {
        try {
            consumer.commitSync();
            return true;
        } catch (CommitFailedException | RebalanceInProgressException e) {
            return false;
        }
    }

    private static void pipe(Order o) throws Exception {
        try (KafkaConsumer<String, String> consumer = consumer(o);
                KafkaProducer<String, String> producer = producer(o, Map.of("transactional.id", o.transaction))) {
            producer.initTransactions();
            while (!o.left()) {
                List<ConsumerRecord<String, String>> batch = new ArrayList<>();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                consumer.poll(WAIT).forEach(batch::add);
                if (batch.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                boolean poisoned = false;
                for (ConsumerRecord<String, String> r : batch) {
                    producer.send(new ProducerRecord<>(o.to, r.partition(), r.key(), r.value()));
                    offsets.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                    poisoned |= r.value().equals(o.poison);
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                producer.flush();
                if (poisoned) {
                    producer.abortTransaction();
                    return;
                }
                producer.commitTransaction();
                o.tellRecords(batch);
            }
        }
    }

    private static String fence(Order o) throws Exception {
        Map<String, Object> same = Map.of("transactional.id", o.transaction);
        try (KafkaProducer<String, String> first = producer(o, same); KafkaProducer<String, String> second = producer(o, same)) {
            first.initTransactions();
            first.beginTransaction();
            first.send(new ProducerRecord<>(o.topic, o.partition, null, "zombie")).get();
            second.initTransactions();
            String told = "nothing: it has committed";
            try {
                first.commitTransaction();
            } catch (KafkaException e) {
                told = e.toString();
            }
            second.beginTransaction();
            second.send(new ProducerRecord<>(o.topic, o.partition, null, "alive")).get();
            second.commitTransaction();
            return told;
        }
    }
}
