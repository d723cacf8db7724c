// Lets the real CLI run without its downloaded engines: a driver adapter in their place.
import { defineConfig } from "prisma/config";
import { PrismaPg } from "@prisma/adapter-pg";

const OID = { char: 18, name: 19, charArray: 1002, nameArray: 1003 };

// Mends what the adapter does not know: catalogue types, and scripts that must stay whole.
class WholeScripts extends PrismaPg {
  async connect() {
    return mend(await super.connect());
  }
  async connectToShadowDb() {
    return mend(await super.connectToShadowDb());
  }
}

function mend(connection: any) {
  const client = connection.client;
  connection.executeScript = async (script: string) => {
    try {
      await client.query(script);
    } catch (error) {
      connection.onError(error);
    }
  };
  const original = connection.performIO.bind(connection);
  connection.performIO = async (query: any) => {
    const result = await original(query);
    for (const field of result.fields ?? []) {
      if (field.dataTypeID === OID.char || field.dataTypeID === OID.name) field.dataTypeID = 25;
      if (field.dataTypeID === OID.charArray || field.dataTypeID === OID.nameArray) field.dataTypeID = 1009;
    }
    return result;
  };
  return connection;
}
// The CLI leaves a timer of ten seconds behind `migrate resolve`, and waits for it at its end.
const { setTimeout: later } = globalThis;
globalThis.setTimeout = ((act: any, delay: any, ...rest: any[]) => {
  const timer = later(act, delay, ...rest);
  return delay >= 10_000 ? timer.unref() : timer;
}) as typeof setTimeout;

export default defineConfig({
  experimental: { adapter: true },
  engine: "js",
  schema: "prisma/schema.prisma",
  // Without the last option the pool's idle connection keeps the CLI from its end for ten seconds.
  adapter: async () =>
    new WholeScripts({ connectionString: process.env.DATABASE_URL, allowExitOnIdle: true }),
});
