// A client in Node.js: node client.js NODE DEVICE. ../README.md says what it does.
// PROTOS, in the environment, is the folder of the .proto files.
"use strict";

const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const readline = require("readline");

const D_READ = 1;
const D_WRITE = 2;
const LONGEST = 1514;
// NETF_IN and NETF_BPF; ldh [12]; jeq #0x88b6, 0, 1; ret #-1; ret #0. Four words an instruction.
const FILTER = [
  [0x401, 0, 0, 0],
  [0x28, 0, 12, 0],
  [0x15, 0x100, 0x88b6, 0],
  [0x06, 0, 0xffff, 0xffff],
  [0x06, 0, 0, 0],
].flat();
const ETHER_TYPE = Buffer.from([0x88, 0xb5]); // IEEE 802: for local experiments

const definition = protoLoader.loadSync(["device", "ports", "task"].map((name) => `machdev/v1/${name}.proto`), {
  includeDirs: [process.env.PROTOS],
  keepCase: true,
});
const api = grpc.loadPackageDefinition(definition).machdev.v1;

// Starts a unary call; returns the call, to cancel it, and a promise of its answer.
function begin(stub, method, request, metadata) {
  let call;
  const answer = new Promise((resolve, reject) => {
    call = stub[method](request, metadata, (error, response) => (error ? reject(error) : resolve(response)));
  });
  return { call, answer };
}

// Attaches a task: what the client holds lives as long as this stream, and no longer.
function attach(stub) {
  const stream = stub.Attach({});
  const token = new Promise((resolve, reject) => {
    stream.once("data", (first) => resolve(first.token));
    stream.on("error", reject); // also what cancelling it ends with
  });
  return { stream, token };
}

async function main(node, name) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const told = async (word) => {
    const line = (await lines.next()).value;
    if (line !== word) throw new Error(`expected "${word}", not "${line}"`);
  };
  const credentials = grpc.credentials.createInsecure();
  const device = new api.DeviceService(`unix://${node}`, credentials);
  const ports = new api.PortService(`unix://${node}`, credentials);
  const tasks = new api.TaskService(`unix://${node}`, credentials);

  const task = attach(tasks);
  const metadata = new grpc.Metadata();
  metadata.set("machdev-task", await task.token);
  const call = (method, request) => begin(device, method, request, metadata).answer;

  const opened = await call("DeviceOpen", { mode: D_READ | D_WRITE, name });
  console.log(`mac ${opened.mac_address.toString("hex").replace(/(..)(?!$)/g, "$1:")}`);

  const { data } = await call("DeviceRead", { port: opened.port, bytes_wanted: LONGEST });
  const back = Buffer.concat([data.subarray(6, 12), opened.mac_address, ETHER_TYPE, data.subarray(14)]);
  const written = await call("DeviceWrite", { port: opened.port, data: back });
  if (written.bytes_written !== back.length) throw new Error(`wrote ${written.bytes_written} bytes`);
  console.log(`read ${data.subarray(14).toString("hex")}`);

  const held = begin(device, "DeviceRead", { port: opened.port, bytes_wanted: LONGEST }, metadata);
  const ended = held.answer.then(
    () => grpc.status.OK,
    (error) => error.code,
  );
  console.log("held");
  await told("cancel");
  held.call.cancel();
  if ((await ended) !== grpc.status.CANCELLED) throw new Error(`the read ended with ${await ended}`);
  console.log("cancelled");

  const { port: receivePort } = await begin(ports, "PortAllocate", {}, metadata).answer;
  const messages = ports.PortReceive({ port: receivePort }, metadata);
  messages.on("error", () => {}); // what cancelling it ends with
  const filter = { port: opened.port, receive_port: receivePort, priority: 1, filter: FILTER };
  await call("DeviceSetFilter", filter);
  console.log("filter");
  const received = await new Promise((resolve) => messages.once("data", (first) => resolve(first.messages)));
  messages.cancel();
  for (const { net_rcv_msg: frame } of received) {
    console.log(`message ${frame.header.toString("hex")} ${frame.packet.subarray(4).toString("hex")}`);
  }

  await told("close");
  await call("DeviceClose", { port: opened.port });
  task.stream.cancel();
  console.log("done");
}

main(process.argv[2], process.argv[3]).then(
  () => process.exit(0),
  (error) => {
    console.error(`client.js: ${error.message}`);
    process.exit(1);
  },
);
