// Who has an IPv4 address? A client in Go, from nothing but the .proto files.
// arping NODE 10.0.0.1
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"

	machdev "machdev/v1"
)

func main() {
	ctx, target := context.Background(), net.ParseIP(os.Args[2]).To4()
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", os.Args[1])
	}
	channel, err := grpc.Dial("localhost", grpc.WithInsecure(), grpc.WithContextDialer(dial))
	if err != nil {
		log.Fatal(err)
	}
	device := machdev.NewDeviceServiceClient(channel)
	opened, err := device.DeviceOpen(ctx, &machdev.DeviceOpenRequest{Mode: 3, Name: "arping"})
	if err != nil {
		log.Fatal(err)
	}
	mac := opened.MacAddress
	request := []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1} // ARP, Ethernet, IPv4, request
	nothing := make([]byte, 4)                      // from nobody's address: a probe
	frame := bytes.Join([][]byte{bytes.Repeat([]byte{255}, 6), mac, request, mac, nothing,
		make([]byte, 6), target}, nil)
	if _, err := device.DeviceWrite(ctx, &machdev.DeviceWriteRequest{Port: opened.Port, Data: frame}); err != nil {
		log.Fatal(err)
	}
	for { // each read is held until a frame comes
		got, err := device.DeviceRead(ctx, &machdev.DeviceReadRequest{Port: opened.Port, BytesWanted: 65535})
		if err != nil {
			log.Fatal(err)
		}
		data := got.Data
		if len(data) >= 42 && data[12] == 8 && data[13] == 6 && data[21] == 2 && bytes.Equal(data[28:32], target) {
			fmt.Println(target, "is at", net.HardwareAddr(data[22:28]))
			return
		}
	}
}
