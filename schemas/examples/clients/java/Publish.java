// Publishes the CIM message in a file and says what became of it: java -cp 'lib/*' Publish.java message.json

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Stream;

class Publish {
    static final long SECONDS_TO_WAIT = Long.parseLong(System.getenv().getOrDefault("RECEIPT_SECONDS", "30"));

    /** Publishes once, on a connection of its own; returns the receipt, or null if there was none in time. */
    static JsonObject send(ConnectionFactory factory, byte[] body, String id, String place) throws Exception {
        try (var connection = factory.newConnection(); var channel = connection.createChannel()) {
            var receipt = new CompletableFuture<JsonObject>();
            var returned = new CompletableFuture<Void>();
            connection.addShutdownListener(receipt::completeExceptionally); // lost while we wait
            channel.addReturnListener(message -> returned.complete(null));
            // Receipts come back on this channel, to nobody else, and no queue has to be made for them.
            channel.basicConsume("amq.rabbitmq.reply-to", true, (tag, answer) -> {
                if (id.equals(answer.getProperties().getCorrelationId())) receipt.complete(json(answer.getBody()));
            }, tag -> { });
            channel.confirmSelect();
            channel.basicPublish("cim.ingress", place, true, new AMQP.BasicProperties.Builder()
                .contentType("application/json")
                .deliveryMode(2) // persistent
                .messageId(id)
                .correlationId(id)
                .replyTo("amq.rabbitmq.reply-to")
                .userId(factory.getUsername()) // checked by the broker: proves who published
                .build(), body);
            channel.waitForConfirmsOrDie(30_000); // the broker has the message safely
            if (returned.isDone()) throw new IllegalStateException("no queue took it");
            System.out.println("confirmed " + id);
            return receipt.completeOnTimeout(null, SECONDS_TO_WAIT, TimeUnit.SECONDS).join();
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        byte[] body = null;
        JsonObject message = null, header = null;
        try {
            body = Files.readAllBytes(Path.of(arguments[0])); // sent as it is: the same bytes are the same activity
            message = json(body);
            header = message.get("header") instanceof JsonObject object ? object : new JsonObject();
        } catch (IOException | IndexOutOfBoundsException none) {
            end(2, "name a file with a message: " + none.getMessage());
        } catch (RuntimeException | StackOverflowError bad) { // the same sentence as for a message without id
        }
        String id = message == null ? "" : first(text(message, "id")).trim();
        if (id.isEmpty() || id.getBytes(StandardCharsets.UTF_8).length > 255) { // what AMQP takes
            end(6, arguments[0] + ": no JSON message with a text of at most 255 bytes as its id, "
                + "the same whenever it is sent again");
        }
        String place = first(text(header, "conversationId"), text(header, "channelSessionId"),
            header.get("customer") instanceof JsonObject customer ? text(customer, "_id") : null, "unknown");
        JsonObject receipt = null;
        for (int pause = 1; ; pause *= 2) {
            try {
                var factory = new ConnectionFactory();
                factory.setUri(System.getenv().getOrDefault("CIM_RABBITMQ_URL", "amqp://localhost:5672/"));
                factory.setAutomaticRecoveryEnabled(false); // what was in doubt has to be sent again: the loop does both
                receipt = send(factory, body, id, place);
                break;
            } catch (IOException | TimeoutException | CompletionException | ShutdownSignalException lost) {
                if (isRefused(lost)) end(2, "not published: " + lost);
                if (pause > 16) end(3, "the broker is away: " + lost);
                Thread.sleep(pause * 1000L); // unreachable or lost: whether it arrived is unknown, so send again
            } catch (Exception wrong) { // no queue took it, or the address cannot be used
                end(2, "not published: " + wrong.getMessage());
            }
        }
        if (receipt == null) end(5, "no receipt in time; the message is safe in the queue");
        System.out.println("receipt " + text(receipt, "outcome") + " "
            + first(text(receipt, "code"), text(receipt, "reason"), text(receipt, "eventId")));
        System.exit(text(receipt, "outcome").equals("dead") ? 6 : 0);
    }

    /** Ends with the exit code that `cim-worker publish` would give, and one sentence. */
    static void end(int code, String sentence) {
        System.err.println(sentence);
        System.exit(code);
    }

    /** Whether sending again is in vain: a missing right or exchange closes the channel only, not the connection. */
    static boolean isRefused(Throwable error) {
        if (error instanceof ShutdownSignalException signal) return !signal.isHardError();
        return error instanceof AuthenticationFailureException || (error.getCause() != null && isRefused(error.getCause()));
    }

    static JsonObject json(byte[] bytes) {
        return JsonParser.parseString(new String(bytes, StandardCharsets.UTF_8)).getAsJsonObject();
    }

    static String text(JsonObject object, String name) {
        return object.get(name) instanceof JsonPrimitive value && value.isString() ? value.getAsString() : null;
    }

    static String first(String... texts) {
        return Stream.of(texts).filter(Objects::nonNull).filter(text -> !text.isBlank()).findFirst().orElse("");
    }
}
