// A client in Go: client NODE DEVICE. ../README.md says what it does.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	machdev "machdev/v1"
)

const (
	dRead   = 1
	dWrite  = 2
	longest = 1514
)

// NETF_IN and NETF_BPF; ldh [12]; jeq #0x88b6, 0, 1; ret #-1; ret #0. Four words an instruction.
var filter = []uint32{
	0x401, 0, 0, 0,
	0x28, 0, 12, 0,
	0x15, 0x100, 0x88b6, 0,
	0x06, 0, 0xffff, 0xffff,
	0x06, 0, 0, 0,
}

var etherType = []byte{0x88, 0xb5} // IEEE 802: for local experiments

func run(node, name string) error {
	input := bufio.NewScanner(os.Stdin)
	told := func(word string) error {
		if !input.Scan() || input.Text() != word {
			return fmt.Errorf("expected %q, not %q", word, input.Text())
		}
		return nil
	}
	channel, err := grpc.Dial("localhost", grpc.WithInsecure(), grpc.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", node)
		}))
	if err != nil {
		return err
	}
	defer channel.Close()

	// A task holds the port: it lives as long as this stream, and no longer.
	ctx, endTask := context.WithCancel(context.Background())
	defer endTask()
	attached, err := machdev.NewTaskServiceClient(channel).Attach(ctx, &machdev.AttachRequest{})
	if err != nil {
		return err
	}
	first, err := attached.Recv()
	if err != nil {
		return err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "machdev-task", first.Token)

	device := machdev.NewDeviceServiceClient(channel)
	opened, err := device.DeviceOpen(ctx, &machdev.DeviceOpenRequest{Mode: dRead | dWrite, Name: name})
	if err != nil {
		return err
	}
	fmt.Println("mac", net.HardwareAddr(opened.MacAddress))

	read := &machdev.DeviceReadRequest{Port: opened.Port, BytesWanted: longest}
	got, err := device.DeviceRead(ctx, read)
	if err != nil {
		return err
	}
	payload := got.Data[14:]
	back := append([]byte{}, got.Data[6:12]...)
	back = append(append(append(back, opened.MacAddress...), etherType...), payload...)
	// What goes on is asked on one stream: a batch of a write and of a read that will be held.
	requests, err := device.DeviceRequests(ctx)
	if err != nil {
		return err
	}
	if err := requests.Send(&machdev.DeviceRequestsRequest{Requests: []*machdev.DeviceRequest{
		{Id: 1, Request: &machdev.DeviceRequest_Write{
			Write: &machdev.DeviceWriteRequest{Port: opened.Port, Data: back}}},
		{Id: 2, Request: &machdev.DeviceRequest_Read{Read: read}},
	}}); err != nil {
		return err
	}
	written, err := reply(requests, 1)
	if err != nil {
		return err
	}
	if int(written.GetWrite().GetBytesWritten()) != len(back) {
		return fmt.Errorf("the write was answered with %v", written)
	}
	fmt.Println("read", hex.EncodeToString(payload))

	fmt.Println("held")
	if err := told("cancel"); err != nil {
		return err
	}
	if err := requests.Send(&machdev.DeviceRequestsRequest{Requests: []*machdev.DeviceRequest{
		{Id: 3, Request: &machdev.DeviceRequest_Cancel{
			Cancel: &machdev.DeviceCancelRequest{RequestId: 2}}},
	}}); err != nil {
		return err
	}
	cancelled, err := reply(requests, 3)
	if err != nil {
		return err
	}
	if !cancelled.GetCancel().GetCancelled() {
		return fmt.Errorf("the read was not held: %v", cancelled)
	}
	fmt.Println("cancelled")

	ports := machdev.NewPortServiceClient(channel)
	allocated, err := ports.PortAllocate(ctx, &machdev.PortAllocateRequest{})
	if err != nil {
		return err
	}
	messages, err := ports.PortReceive(ctx, &machdev.PortReceiveRequest{Port: allocated.Port})
	if err != nil {
		return err
	}
	if _, err := device.DeviceSetFilter(ctx, &machdev.DeviceSetFilterRequest{
		Port: opened.Port, ReceivePort: allocated.Port, Priority: 1, Filter: filter,
	}); err != nil {
		return err
	}
	fmt.Println("filter")
	received, err := messages.Recv()
	if err != nil {
		return err
	}
	for _, message := range received.Messages {
		frame := message.GetNetRcvMsg()
		fmt.Printf("message %x %x\n", frame.Header, frame.Packet[4:])
	}

	if err := told("close"); err != nil {
		return err
	}
	if _, err := device.DeviceClose(ctx, &machdev.DeviceCloseRequest{Port: opened.Port}); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

// The next reply of a stream, which must be that to request number id.
func reply(requests machdev.DeviceService_DeviceRequestsClient, id uint64) (*machdev.DeviceReply, error) {
	batch, err := requests.Recv()
	if err != nil {
		return nil, err
	}
	if len(batch.Replies) != 1 || batch.Replies[0].Id != id || batch.Replies[0].GetError() != nil {
		return nil, fmt.Errorf("expected the reply to request %d, not %v", id, batch)
	}
	return batch.Replies[0], nil
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}
