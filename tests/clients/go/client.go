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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	machdev "machdev/v1"
)

const (
	dRead   = 1
	dWrite  = 2
	longest = 1514
)

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
	written, err := device.DeviceWrite(ctx, &machdev.DeviceWriteRequest{Port: opened.Port, Data: back})
	if err != nil {
		return err
	}
	if int(written.BytesWritten) != len(back) {
		return fmt.Errorf("wrote %d bytes", written.BytesWritten)
	}
	fmt.Println("read", hex.EncodeToString(payload))

	held, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() {
		_, err := device.DeviceRead(held, read)
		ended <- err
	}()
	fmt.Println("held")
	err = told("cancel")
	cancel()
	if err != nil {
		return err
	}
	if err := <-ended; status.Code(err) != codes.Canceled {
		return fmt.Errorf("the read ended with %v", err)
	}
	fmt.Println("cancelled")

	if err := told("close"); err != nil {
		return err
	}
	if _, err := device.DeviceClose(ctx, &machdev.DeviceCloseRequest{Port: opened.Port}); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}
