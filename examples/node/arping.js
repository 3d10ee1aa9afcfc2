// Who has an IPv4 address? A client in Node.js, from nothing but the .proto files.
// npm install @grpc/grpc-js @grpc/proto-loader; node arping.js PROTOS NODE 10.0.0.1
"use strict";

const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [protos, node, address] = process.argv.slice(2);
const options = { includeDirs: [protos], keepCase: true };
const { machdev } = grpc.loadPackageDefinition(protoLoader.loadSync("machdev/v1/device.proto", options));
const device = new machdev.v1.DeviceService(`unix://${node}`, grpc.credentials.createInsecure());

const call = (method, request) =>
  new Promise((resolve, reject) => {
    device[method](request, (error, response) => (error ? reject(error) : resolve(response)));
  });

async function main() {
  const { port, mac_address: mac } = await call("DeviceOpen", { mode: 3, name: "arping" });
  const target = Buffer.from(address.split(".").map(Number));
  const request = Buffer.from("08060001080006040001", "hex"); // ARP, Ethernet, IPv4, request
  const nothing = Buffer.alloc(4); // from nobody's address: a probe
  const frame = [Buffer.alloc(6, 255), mac, request, mac, nothing, Buffer.alloc(6), target];
  await call("DeviceWrite", { port, data: Buffer.concat(frame) });
  for (;;) {
    const { data } = await call("DeviceRead", { port, bytes_wanted: 65535 }); // held until one comes
    if (data.readUInt32BE(12) !== 0x08060001 || data[21] !== 2) continue; // an ARP reply
    if (!data.subarray(28, 32).equals(target)) continue;
    console.log(`${address} is at ${data.subarray(22, 28).toString("hex").match(/../g).join(":")}`);
    return device.close();
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
