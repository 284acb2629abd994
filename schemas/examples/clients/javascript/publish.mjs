// Publishes the CIM message in a file and says what became of it: node publish.mjs message.json
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import amqp from "amqplib";

const url = process.env.CIM_RABBITMQ_URL ?? "amqp://localhost:5672/";
const secondsToWait = Number(process.env.RECEIPT_SECONDS ?? 30);
const file = process.argv[2];

/** End with the exit code that `cim-worker publish` would give, and one sentence. */
function end(code, sentence) {
  console.error(sentence);
  process.exit(code);
}

/** Publish once, on a connection of its own; return the receipt, or undefined if there was none in time. */
async function send(body, id, place) {
  const connection = await amqp.connect(url, { timeout: 10_000 });
  const lost = new Promise((_, reject) => connection.on("error", reject).on("close", () => reject(new Error("lost"))));
  lost.catch(() => {}); // it is awaited below
  try {
    const channel = await connection.createConfirmChannel();
    const refused = new Promise((_, reject) => { // sending again would be in vain
      channel.on("return", () => reject(Object.assign(new Error("no queue took it"), { final: true })));
      channel.on("error", (error) => reject(Object.assign(error, { final: true })));
    });
    refused.catch(() => {});
    // Receipts come back on this channel, to nobody else, and no queue has to be made for them.
    const receipt = new Promise((resolve) => channel.consume("amq.rabbitmq.reply-to",
      (answer) => answer?.properties.correlationId === id && resolve(JSON.parse(answer.content)), { noAck: true }));
    channel.publish("cim.ingress", place, body, {
      contentType: "application/json",
      persistent: true,
      mandatory: true,
      messageId: id,
      correlationId: id,
      replyTo: "amq.rabbitmq.reply-to",
      userId: decodeURIComponent(new URL(url).username || "guest"), // checked by the broker: proves who published
    });
    await Promise.race([refused, lost, channel.waitForConfirms()]); // the broker has the message safely
    await Promise.race([refused, sleep(0)]);
    console.log("confirmed", id);
    return await Promise.race([receipt, lost, sleep(secondsToWait * 1000, undefined, { ref: false })]);
  } finally {
    await connection.close().catch(() => {});
  }
}

let body, id, place, receipt;
try {
  body = await readFile(file); // sent as it is, again and again: the same bytes are the same activity
} catch (error) {
  end(2, `name a file with a message (${error.message})`);
}
try {
  const { id: given, header } = JSON.parse(body);
  id = given.trim();
  if (!id || Buffer.byteLength(id) > 255) throw new Error("not what AMQP takes");
  place = header?.conversationId || header?.channelSessionId || header?.customer?._id || "unknown";
} catch {
  end(6, `${file}: no JSON message with a text of at most 255 bytes as its id, the same whenever it is sent again`);
}
for (const pause of [1, 2, 4, 8, 16, undefined]) {
  try {
    receipt = await send(body, id, place);
    break;
  } catch (error) { // unreachable or lost: whether it arrived is unknown, so send again
    if (error.final || / 403 /.test(error.message)) end(2, `not published: ${error.message}`);
    if (pause === undefined) end(3, `the broker is away: ${error.message || error.code}`);
    await sleep(pause * 1000);
  }
}
if (!receipt) end(5, "no receipt in time; the message is safe in the queue");
console.log("receipt", receipt.outcome, receipt.code || receipt.reason || receipt.eventId);
process.exit(receipt.outcome === "dead" ? 6 : 0);
