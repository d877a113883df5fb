// Vsockswitch is the switch of gvisor-tap-vsock by itself: each connection to a unix socket is a port,
// with QEMU's framing.
//
//	usage: vsockswitch PATH
//
// It is a module of its own, so that nothing else depends on what it needs.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vsockswitch PATH")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "vsockswitch:", err)
		os.Exit(1)
	}
}

func serve(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s := tap.NewSwitch(false)
	s.Connect(nobody{})
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go s.Accept(context.Background(), c, types.QemuProtocol)
	}
}

// nobody stands for the gateway that the switch wants.
type nobody struct{}

func (nobody) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}
func (nobody) LinkAddress() tcpip.LinkAddress                                        { return "\x02\x00\x00\x00\x00\xfe" }
func (nobody) IP() string                                                            { return "" }
