// Who has an IPv4 address? A client in C++, from nothing but the .proto files.
// arping NODE 10.0.0.1
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "machdev/v1/device.grpc.pb.h"

namespace v1 = machdev::v1;

static void Check(const grpc::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.error_message().c_str());
  std::exit(1);
}

int main(int argc, char** argv) {
  std::string target(4, '\0');
  if (argc != 3 || inet_pton(AF_INET, argv[2], &target[0]) != 1) return 2;
  auto channel = grpc::CreateChannel("unix:" + std::string(argv[1]), grpc::InsecureChannelCredentials());
  auto device = v1::DeviceService::NewStub(channel);

  grpc::ClientContext opening, writing;
  v1::DeviceOpenRequest open;
  v1::DeviceOpenResponse opened;
  open.set_mode(3);
  open.set_name("arping");
  Check(device->DeviceOpen(&opening, open, &opened));

  const std::string& mac = opened.mac_address();
  const std::string request("\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);  // ARP, IPv4, request
  const std::string nothing(4, '\0');  // from nobody's address: a probe
  v1::DeviceWriteRequest write;
  v1::DeviceWriteResponse written;
  write.set_port(opened.port());
  write.set_data(std::string(6, '\xff') + mac + request + mac + nothing + std::string(6, '\0') + target);
  Check(device->DeviceWrite(&writing, write, &written));

  v1::DeviceReadRequest read;
  read.set_port(opened.port());
  read.set_bytes_wanted(65535);
  for (;;) {  // each read is held until a frame comes
    grpc::ClientContext context;
    v1::DeviceReadResponse got;
    Check(device->DeviceRead(&context, read, &got));
    const std::string& data = got.data();
    if (data.size() < 42 || data.substr(12, 2) != "\x08\x06" || data[21] != 2) continue;
    if (data.substr(28, 4) != target) continue;
    std::printf("%s is at", argv[2]);
    for (int index = 22; index < 28; ++index)
      std::printf("%c%02x", index == 22 ? ' ' : ':', static_cast<unsigned char>(data[index]));
    std::printf("\n");
    return 0;
  }
}
