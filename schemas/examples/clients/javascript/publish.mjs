// Publishes the CIM message in a file and says what became of it: node publish.mjs message.json
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import amqp from "amqplib";

const { CIM_RABBITMQ_URL: url = "amqp://localhost:5672/", RECEIPT_SECONDS: seconds = 30 } = process.env;
const userId = decodeURIComponent(new URL(url).username || "guest"); // checked by the broker: proves who published
const replyTo = "amq.rabbitmq.reply-to"; // receipts come back on the channel that publishes, to nobody else
const properties = { persistent: true, mandatory: true, replyTo, userId };

/** Publish once, on a connection of its own; resolve to the receipt, or to nothing if there was none in time. */
async function send(body, messageId, place) {
  const connection = await amqp.connect(url, { timeout: 10_000 });
  const channel = await connection.createConfirmChannel();
  return new Promise((resolve, reject) => {
    let returned;
    const refuse = (error) => reject(Object.assign(error, { final: true })); // sending again would be in vain
    connection.on("error", reject).on("close", () => reject(new Error("lost")));
    channel.on("error", refuse).on("return", () => { returned = new Error("no queue took it"); });
    const take = (answer) => answer && resolve(JSON.parse(answer.content));
    channel.consume(replyTo, take, { noAck: true }).catch(() => {}); // the events above say why
    channel.publish("cim.ingress", place, body, { ...properties, messageId }, (refusal) => {
      if (refusal || returned) return refusal ? reject(refusal) : refuse(returned);
      console.log("confirmed", messageId); // the broker has the message safely
      setTimeout(resolve, seconds * 1000);
    });
  }).finally(() => connection.close().catch(() => {}));
}

/** Publish until the broker has it; return the exit code of `cim-worker publish`, and one sentence. */
async function publish(file) {
  let body, id, place;
  try {
    body = await readFile(file); // sent as it is, again and again: the same bytes are the same activity
    const message = JSON.parse(body);
    place = message.header.conversationId || message.header.channelSessionId || message.header.customer._id;
    id = message.id.trim();
  } catch (error) {
    if (error.code) return [2, `name a file with a message: ${error.message}`];
  }
  if (![id, place].every((text) => text && Buffer.byteLength(text) < 256)) { // what AMQP takes
    return [6, `${file}: no JSON message with an id, the same whenever it is sent, and a place, of at most 255 bytes`];
  }
  for (const pause of [0, 1, 2, 4, 8, 16]) {
    await sleep(pause * 1000);
    try {
      const receipt = await send(body, id, place);
      if (!receipt) return [5, "no receipt in time; the message is safe in the queue"];
      console.log("receipt", receipt.outcome, receipt.code || receipt.reason || receipt.eventId);
      return [receipt.outcome === "dead" ? 6 : 0];
    } catch (error) { // unreachable or lost: whether it arrived is unknown, so send again
      if (error.final || / 403 /.test(error.message)) return [2, `not published: ${error.message}`];
    }
  }
  return [3, `the broker at ${new URL(url).host} is away`];
}

const [code, sentence] = await publish(process.argv[2]);
if (sentence) console.error(sentence);
process.exit(code);
