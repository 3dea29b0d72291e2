import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Apache Kafka's clients and console tools on request, so that the tests start one
 * virtual machine and not one for each command.
 *
 * A request is a line of words in base64, separated by spaces: the command, what standard
 * input holds, and arguments. The answer is a line: exit code, standard output and
 * standard error, the two in base64. Tools run as their main method, which ends with
 * Exit.exit: that is turned into an exception, and their shutdown hooks are run.
 */
public final class Driver {
    /** A tool's way out. */
    private static final class Exited extends RuntimeException {
        final int code;

        Exited(int code, String message) {
            super(message, null, false, false);
            this.code = code;
        }
    }

    /** A stream whose target changes with every command; tools keep the first they see. */
    private static final class Switched extends OutputStream {
        private volatile ByteArrayOutputStream to = new ByteArrayOutputStream();

        @Override
        public void write(int b) {
            to.write(b);
        }

        @Override
        public void write(byte[] b, int from, int n) {
            to.write(b, from, n);
        }

        String take() {
            ByteArrayOutputStream was = to;
            to = new ByteArrayOutputStream();
            return Base64.getEncoder().encodeToString(was.toByteArray());
        }
    }

    private static Exited exited;
    private static final List<Runnable> hooks = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        Switched out = new Switched();
        Switched err = new Switched();
        System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
        Exit.Procedure leave = (code, message) -> {
            if (exited == null) { // some tools catch whatever they throw, and leave again
                exited = new Exited(code, message);
            }
            throw exited;
        };
        Exit.setExitProcedure(leave);
        Exit.setHaltProcedure(leave);
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));

        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            List<String> words = new ArrayList<>();
            for (String word : line.split(" ", -1)) {
                words.add(new String(Base64.getDecoder().decode(word), StandardCharsets.UTF_8));
            }
            exited = null;
            int code = run(words);
            System.out.flush();
            System.err.flush();
            answers.println(code + " " + out.take() + " " + err.take());
            answers.flush();
        }
    }

    private static int run(List<String> words) {
        String stdin = words.get(1);
        String[] args = words.subList(2, words.size()).toArray(new String[0]);
        try {
            try {
                switch (words.get(0)) {
                    case "version": System.out.println(AppInfoParser.getVersion()); break;
                    case "produce": produce(stdin, args); break;
                    case "consume": consume(args); break;
                    case "offsets": offsets(args); break;
                    default: tool(words.get(0), stdin, args);
                }
            } finally {
                List<Runnable> now = new ArrayList<>(hooks);
                hooks.clear();
                now.forEach(Runnable::run);
            }
            return 0;
        } catch (Throwable e) {
            if (exited == null) {
                e.printStackTrace();
                return 1;
            }
            if (exited.getMessage() != null) {
                System.err.println(exited.getMessage());
            }
            return exited.code;
        }
    }

    private static void tool(String name, String stdin, String[] args) throws Exception {
        System.setIn(new ByteArrayInputStream(stdin.getBytes(StandardCharsets.UTF_8)));
        Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) args);
    }

    /** Settings are the arguments NAME=VALUE from index from on. */
    private static Map<String, Object> settings(String[] args, int from) {
        Map<String, Object> all = new HashMap<>();
        for (String arg : Arrays.asList(args).subList(from, args.length)) {
            int eq = arg.indexOf('=');
            all.put(arg.substring(0, eq), arg.substring(eq + 1));
        }
        return all;
    }

    /** "-" is null, anything else base64. */
    private static byte[] bytes(String word) {
        return word.equals("-") ? null : Base64.getDecoder().decode(word);
    }

    private static String word(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }

    /**
     * Arguments: topic, partition, settings. Each line of input is a record: timestamp,
     * key, value, then name and value of each header, separated by tabs. Output: a line
     * of offset and timestamp for each.
     */
    private static void produce(String stdin, String[] args) throws Exception {
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings(args, 2), new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (String line : stdin.split("\n")) {
                String[] f = line.split("\t", -1);
                List<Header> headers = new ArrayList<>();
                for (int i = 3; i < f.length; i += 2) {
                    headers.add(new RecordHeader(new String(bytes(f[i]), StandardCharsets.UTF_8), bytes(f[i + 1])));
                }
                sent.add(producer.send(new ProducerRecord<>(args[0], Integer.valueOf(args[1]),
                        Long.valueOf(f[0]), bytes(f[1]), bytes(f[2]), headers)));
            }
            producer.flush();
            for (Future<RecordMetadata> one : sent) {
                System.out.println(one.get().offset() + "\t" + one.get().timestamp());
            }
        }
    }

    /**
     * Arguments: topic, number of partitions, number of records, settings. Reads by
     * assignment from the start. Output: a line for each record: partition, offset,
     * timestamp, key, value, headers as in produce.
     */
    private static void consume(String[] args) {
        int want = Integer.parseInt(args[2]);
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings(args, 3), new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (int p = 0; p < Integer.parseInt(args[1]); p++) {
                all.add(new TopicPartition(args[0], p));
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            long end = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            for (int got = 0; got < want;) {
                if (System.nanoTime() > end) {
                    throw new IllegalStateException(got + " of " + want + " records came in a minute");
                }
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofSeconds(1))) {
                    StringBuilder line = new StringBuilder();
                    line.append(r.partition()).append('\t').append(r.offset()).append('\t').append(r.timestamp());
                    line.append('\t').append(word(r.key())).append('\t').append(word(r.value()));
                    for (Header h : r.headers()) {
                        line.append('\t').append(word(h.key().getBytes(StandardCharsets.UTF_8)));
                        line.append('\t').append(word(h.value()));
                    }
                    System.out.println(line);
                    got++;
                }
            }
        }
    }

    /**
     * Arguments: topic, timestamp, settings. Output: the offsets of partition 0: earliest,
     * latest, that of the timestamp and that of the greatest timestamp, as the admin
     * client and then as the consumer knows them; -1 for none.
     */
    private static void offsets(String[] args) throws Exception {
        TopicPartition tp = new TopicPartition(args[0], 0);
        long timestamp = Long.parseLong(args[1]);
        try (Admin admin = Admin.create(settings(args, 2))) {
            for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(),
                    OffsetSpec.forTimestamp(timestamp), OffsetSpec.maxTimestamp())) {
                ListOffsetsResult result = admin.listOffsets(Map.of(tp, spec));
                System.out.println(result.partitionResult(tp).get().offset());
            }
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings(args, 2), new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            System.out.println(consumer.beginningOffsets(List.of(tp)).get(tp));
            System.out.println(consumer.endOffsets(List.of(tp)).get(tp));
            OffsetAndTimestamp at = consumer.offsetsForTimes(Map.of(tp, timestamp)).get(tp);
            System.out.println(at == null ? -1 : at.offset());
        }
    }
}
