package stack

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Buffer sizes in bytes: least, default and most. The most is what a path of
// 1 Gbit/s × 60 ms fills; netstack advertises half of the receive buffer.
var (
	sendBuffers    = tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 8 << 20}
	receiveBuffers = tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 8 << 20}
)

// The defaults of Config: reno by the rows "loss" and "reorder" of `make bench`, rack
// because it is netstack's own.
const (
	DefaultCongestionControl = "reno"
	DefaultLossDetection     = "rack"
)

// CongestionControls and LossDetections are the values that Config takes.
var (
	CongestionControls = []string{"reno", "cubic"}
	LossDetections     = []string{"rack", "sack"}
)

// tune sets the options of the transport protocols.
func (s *Stack) tune(cfg Config) error {
	cc := tcpip.CongestionControlOption(cfg.CongestionControl)
	if cc == "" {
		cc = DefaultCongestionControl
	}
	detection := cfg.LossDetection
	if detection == "" {
		detection = DefaultLossDetection
	}
	recovery := tcpip.TCPRACKLossDetection
	switch detection {
	case "rack":
	case "sack":
		recovery = 0
	default:
		return fmt.Errorf("loss detection %q: use one of %s", detection, strings.Join(LossDetections, ", "))
	}
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	sack := tcpip.TCPSACKEnabled(true)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sendBuffers, &receiveBuffers, &moderate, &sack, &recovery} {
		if terr := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
			return fmt.Errorf("set TCP option %T: %w", opt, errno(terr))
		}
	}
	if terr := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, &cc); terr != nil {
		return fmt.Errorf("congestion control %q: use one of %s", cc, strings.Join(CongestionControls, ", "))
	}
	return nil
}
