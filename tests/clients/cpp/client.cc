// A client in C++: client NODE DEVICE. ../README.md says what it does.
#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <future>
#include <iostream>
#include <stdexcept>
#include <string>

#include "machdev/v1/device.grpc.pb.h"
#include "machdev/v1/ports.grpc.pb.h"
#include "machdev/v1/task.grpc.pb.h"

namespace v1 = machdev::v1;

namespace {

constexpr std::uint32_t kRead = 1, kWrite = 2;
constexpr int kLongest = 1514;
// NETF_IN and NETF_BPF; ldh [12]; jeq #0x88b6, 0, 1; ret #-1; ret #0. Four words an instruction.
constexpr std::uint32_t kFilter[] = {
    0x401, 0,     0,      0,       //
    0x28,  0,     12,     0,       //
    0x15,  0x100, 0x88b6, 0,       //
    0x06,  0,     0xffff, 0xffff,  //
    0x06,  0,     0,      0,
};
const std::string kEtherType("\x88\xb5", 2);  // IEEE 802: for local experiments

std::string Hex(const std::string& bytes, const char* between = "") {
  static const char digits[] = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : bytes) {
    if (!text.empty()) text += between;
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

void Check(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.error_message());
}

void Say(const std::string& line) { std::cout << line << std::endl; }

void Told(const std::string& word) {
  std::string line;
  if (!std::getline(std::cin, line) || line != word)
    throw std::runtime_error("expected \"" + word + "\", not \"" + line + "\"");
}

void Run(const std::string& node, const std::string& name) {
  auto channel = grpc::CreateChannel("unix:" + node, grpc::InsecureChannelCredentials());
  auto device = v1::DeviceService::NewStub(channel);

  // A task holds the port: it lives as long as this stream, and no longer.
  grpc::ClientContext life;
  auto attached = v1::TaskService::NewStub(channel)->Attach(&life, v1::AttachRequest());
  v1::AttachResponse task;
  if (!attached->Read(&task)) Check(attached->Finish());

  v1::DeviceOpenRequest open;
  open.set_mode(kRead | kWrite);
  open.set_name(name);
  v1::DeviceOpenResponse opened;
  {
    grpc::ClientContext context;
    context.AddMetadata("machdev-task", task.token());
    Check(device->DeviceOpen(&context, open, &opened));
  }
  Say("mac " + Hex(opened.mac_address(), ":"));

  v1::DeviceReadRequest read;
  read.set_port(opened.port());
  read.set_bytes_wanted(kLongest);
  v1::DeviceReadResponse got;
  {
    grpc::ClientContext context;
    context.AddMetadata("machdev-task", task.token());
    Check(device->DeviceRead(&context, read, &got));
  }
  const std::string payload = got.data().substr(14);
  v1::DeviceWriteRequest write;
  write.set_port(opened.port());
  write.set_data(got.data().substr(6, 6) + opened.mac_address() + kEtherType + payload);
  {
    grpc::ClientContext context;
    context.AddMetadata("machdev-task", task.token());
    v1::DeviceWriteResponse written;
    Check(device->DeviceWrite(&context, write, &written));
    if (written.bytes_written() != static_cast<int>(write.data().size()))
      throw std::runtime_error("not all bytes were written");
  }
  Say("read " + Hex(payload));

  grpc::ClientContext held;
  held.AddMetadata("machdev-task", task.token());
  auto ended = std::async(std::launch::async, [&] {
    v1::DeviceReadResponse nothing;
    return device->DeviceRead(&held, read, &nothing);
  });
  Say("held");
  try {
    Told("cancel");
  } catch (...) {
    held.TryCancel();  // else `ended` would wait for ever in its destructor
    throw;
  }
  held.TryCancel();
  if (ended.get().error_code() != grpc::StatusCode::CANCELLED)
    throw std::runtime_error("the read was not cancelled");
  Say("cancelled");

  auto ports = v1::PortService::NewStub(channel);
  v1::PortAllocateResponse allocated;
  {
    grpc::ClientContext context;
    context.AddMetadata("machdev-task", task.token());
    Check(ports->PortAllocate(&context, v1::PortAllocateRequest(), &allocated));
  }
  grpc::ClientContext receiving;
  receiving.AddMetadata("machdev-task", task.token());
  v1::PortReceiveRequest receive;
  receive.set_port(allocated.port());
  auto messages = ports->PortReceive(&receiving, receive);
  v1::DeviceSetFilterRequest filter;
  filter.set_port(opened.port());
  filter.set_receive_port(allocated.port());
  filter.set_priority(1);
  for (std::uint32_t word : kFilter) filter.add_filter(word);
  {
    grpc::ClientContext context;
    context.AddMetadata("machdev-task", task.token());
    v1::DeviceSetFilterResponse set;
    Check(device->DeviceSetFilter(&context, filter, &set));
  }
  Say("filter");
  v1::PortReceiveResponse received;
  if (!messages->Read(&received)) Check(messages->Finish());
  for (const auto& message : received.messages()) {
    const auto& frame = message.net_rcv_msg();
    Say("message " + Hex(frame.header()) + " " + Hex(frame.packet().substr(4)));
  }
  receiving.TryCancel();
  messages->Finish();

  Told("close");
  v1::DeviceCloseRequest close;
  close.set_port(opened.port());
  grpc::ClientContext context;
  context.AddMetadata("machdev-task", task.token());
  v1::DeviceCloseResponse closed;
  Check(device->DeviceClose(&context, close, &closed));
  life.TryCancel();
  attached->Finish();
  Say("done");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 3) throw std::runtime_error("usage: client NODE DEVICE");
    Run(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "client: " << error.what() << std::endl;
    return 1;
  }
}
