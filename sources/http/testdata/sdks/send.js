// Sends one event of each type with the SDK that the first argument names, flushes, and prints [{type, id}, …] as the SDK
// tells them: an event's callback comes after its request was answered with 200. All settings but the address are the
// SDKs' own. The process ends by itself; if something of the SDK hangs, it does not.
const { gunzipSync } = require("node:zlib");
const [sdk, url, writeKey] = process.argv.slice(2);

const userId = "u-42";
const events = [
  ["identify", { userId, traits: { email: "ada@example.com", plan: "pro" } }],
  ["track", { userId, event: "Order Completed", properties: { order_id: "o-1", revenue: 50.0, currency: "EUR" } }],
  ["page", { userId, name: "Thanks", properties: { url: "https://shop.example/thanks" } }],
  ["screen", { userId, name: "Orders" }],
  ["group", { userId, groupId: "g-7", traits: { name: "Example Ltd" } }],
  ["alias", { userId, previousId: "anon-1" }],
];

const clients = {
  segment() {
    const { Analytics } = require("@segment/analytics-node");
    const client = new Analytics({ writeKey, host: url });
    return { client, id: (context) => context.event.messageId, end: () => client.closeAndFlush() };
  },
  rudder() {
    const Analytics = require("@rudderstack/rudder-sdk-node");
    const client = new Analytics(writeKey, { dataPlaneUrl: url });
    // The callback gets the body of the whole request.
    const id = (body, type) => JSON.parse(gunzipSync(body)).batch.find((event) => event.type === type).messageId;
    return { client, id, end: () => client.flush() }; // flush is all that it has
  },
};

async function main() {
  const { client, id, end } = clients[sdk]();
  const sent = events.map(([type, event]) => new Promise((resolve, reject) => {
    client[type](event, (error, answer) => (error ? reject(error) : resolve({ type, id: id(answer, type) })));
  }));
  await end();
  process.stdout.write(JSON.stringify(await Promise.all(sent)));
}
main();
