// Publishes the CIM message in a file and says what became of it: java -cp 'lib/*:.' Publish message.json

import static java.nio.charset.StandardCharsets.UTF_8;

import com.google.gson.Gson;
import com.rabbitmq.client.*;
import java.io.IOException;
import java.nio.file.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Stream;

class Publish {
    record Customer(String _id) { }
    record Header(String conversationId, String channelSessionId, Customer customer) { }
    record Message(String id, Header header) { }
    record Receipt(String outcome, String eventId, String reason, String code) { }

    static final long SECONDS_TO_WAIT = Long.parseLong(System.getenv().getOrDefault("RECEIPT_SECONDS", "30"));
    static final String REPLIES = "amq.rabbitmq.reply-to"; // receipts come back on the channel that publishes, to nobody else

    /** Publishes once, on a connection of its own; returns the receipt, or null if there was none in time. */
    static Receipt send(ConnectionFactory factory, byte[] body, String id, String place) throws Exception {
        try (var connection = factory.newConnection(); var channel = connection.createChannel()) {
            var receipt = new CompletableFuture<Receipt>();
            var returned = new AtomicBoolean();
            connection.addShutdownListener(receipt::completeExceptionally); // lost while we wait
            channel.addReturnListener(message -> returned.set(true));
            channel.basicConsume(REPLIES, true, (tag, answer) ->
                receipt.complete(new Gson().fromJson(new String(answer.getBody(), UTF_8), Receipt.class)), tag -> { });
            channel.confirmSelect();
            var properties = new AMQP.BasicProperties.Builder().deliveryMode(2).messageId(id).replyTo(REPLIES)
                .userId(factory.getUsername()).build(); // the user is checked by the broker: proves who published
            channel.basicPublish("cim.ingress", place, true, properties, body);
            channel.waitForConfirmsOrDie(30_000); // the broker has the message safely
            if (returned.get()) throw new IllegalStateException("no queue took it");
            System.out.println("confirmed " + id);
            return receipt.completeOnTimeout(null, SECONDS_TO_WAIT, TimeUnit.SECONDS).join();
        }
    }

    /** Publishes until the broker has it, and ends with the exit code of `cim-worker publish`. */
    public static void main(String[] arguments) throws Exception {
        byte[] body = null;
        String id = "", place = "";
        try {
            body = Files.readAllBytes(Path.of(arguments[0])); // sent as it is: the same bytes are the same activity
            var message = new Gson().fromJson(new String(body, UTF_8), Message.class);
            id = message.id.trim();
            place = first(message.header.conversationId, message.header.channelSessionId,
                message.header.customer == null ? null : message.header.customer._id);
        } catch (IOException | IndexOutOfBoundsException none) {
            end(2, "name a file with a message: " + none.getMessage());
        } catch (RuntimeException | StackOverflowError bad) { } // the same sentence as for a message without id
        if (!Stream.of(id, place).allMatch(text -> !text.isEmpty() && text.getBytes(UTF_8).length < 256)) {
            end(6, arguments[0] + ": no JSON message with an id, the same whenever it is sent, and a place, of at most 255 bytes");
        }
        var factory = new ConnectionFactory();
        factory.setUri(System.getenv().getOrDefault("CIM_RABBITMQ_URL", "amqp://localhost:5672/"));
        factory.setAutomaticRecoveryEnabled(false); // what was in doubt has to be sent again: the loop does both
        for (int pause : new int[] {0, 1, 2, 4, 8, 16}) {
            Thread.sleep(pause * 1000L);
            try {
                var receipt = send(factory, body, id, place);
                if (receipt == null) end(5, "no receipt in time; the message is safe in the queue");
                System.out.println("receipt " + receipt.outcome + " " + first(receipt.code, receipt.reason, receipt.eventId));
                System.exit(receipt.outcome.equals("dead") ? 6 : 0);
            } catch (Exception error) { // unreachable or lost: whether it arrived is unknown, so send again
                if (isRefusal(error)) end(2, "not published: " + error);
            }
        }
        end(3, "the broker at " + factory.getHost() + " is away");
    }

    /** Whether sending again is in vain: no queue, or a missing right, which closes the channel and not the connection. */
    static boolean isRefusal(Throwable error) {
        return error instanceof AuthenticationFailureException || error instanceof IllegalStateException
            || (error instanceof ShutdownSignalException signal && !signal.isHardError())
            || (error.getCause() != null && isRefusal(error.getCause()));
    }

    static void end(int code, String sentence) {
        System.err.println(sentence);
        System.exit(code);
    }

    static String first(String... texts) {
        return Stream.of(texts).filter(text -> text != null && !text.isBlank()).findFirst().orElse("");
    }
}
