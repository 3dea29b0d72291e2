import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;

import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/** A Kafka Streams application that counts words, exactly once. */
final class WordCount {
    private WordCount() {}

    /**
     * Counts the words of the order's topic into the topic to, in a store "counts", until
     * it is asked to leave. The settings have state.dir.
     */
    static void run(Workers.Order o) throws Exception {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(o.topic, Consumed.with(Serdes.String(), Serdes.String()))
                .flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
                .count(Materialized.as("counts"))
                .toStream()
                .mapValues(String::valueOf)
                .to(o.to, Produced.with(Serdes.String(), Serdes.String()));
        Properties settings = new Properties();
        settings.putAll(o.settings);
        settings.put("application.id", o.group);
        settings.put("bootstrap.servers", o.bootstrap);
        settings.put("processing.guarantee", "exactly_once_v2");
        settings.put("default.key.serde", Serdes.StringSerde.class.getName());
        AtomicReference<Throwable> failed = new AtomicReference<>();
        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.setUncaughtExceptionHandler(e -> {
                failed.set(e);
                o.leave.countDown();
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            o.leave.await();
        }
        if (failed.get() != null) {
            throw new IllegalStateException(failed.get());
        }
    }
}
