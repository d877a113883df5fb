package stack

import (
	"fmt"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Buffer sizes in bytes: least, default and most. Half of the receive buffer is the
// window: at most what a path of 1 Gbit/s × 30 ms fills.
//
// A send buffer grows with the congestion window, and the largest is what ends slow start
// on a path without loss. 4 MiB are what Linux gives (tcp_wmem in ip-sysctl.rst). Slow
// start into 8 MiB overran the queue of a path of 1 Gbit/s × 40 ms that holds twice what
// fills it, and netstack's SACK recovery walks over the whole window for every
// acknowledgement, which over 4,000 segments is slower than they come: it ends in a
// timeout. bench/profiles/wide-from.txt shows it.
var (
	sendBuffers    = tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	receiveBuffers = tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 8 << 20}
)

// mostSend is the largest send buffer that a program may choose, in bytes.
const mostSend = 8 << 20

// The defaults of Config, by the rows "grid" of the bench; bench/profiles/loss-grid.txt
// has the figures.
//
// netstack's cubic carried less than its reno over every lossy path.
//
// With RACK, a timeout within a recovery makes netstack forget what was acknowledged
// selectively, take all of it for being on the way, and so send two segments with
// each timeout until the whole window is repaired: seconds of standstill once slow
// start has overrun a queue. Its SACK recovery does not. Turned on with RACK are tail
// loss probes: on a path below 1 ms after 2 ms without an acknowledgement, which a peer
// that reads 8 streams at once often takes. netstack holds the acknowledgement of what
// was not lost for that of the probe, unlike RFC 8985 section 7.4.2, and halves the
// window, some 40 times a second for each stream: that takes half of their rate.
// What RACK has over SACK, finding the loss of a retransmission without a timeout,
// counts for short paths with high loss; a shorter least timeout brings that back.
//
// The least timeout is below the 200 ms of netstack and the kernel, and above the 40 ms
// for which a Linux peer may delay an acknowledgement. netstack does not add it to
// the round trip: the shorter it is, the more paths have a timeout of just their round
// trip, and needless retransmissions.
const (
	DefaultCongestionControl = "reno"
	DefaultLossDetection     = "sack"
	DefaultMinRTO            = 100 * time.Millisecond
)

// Bounds of Config.MinRTO.
const (
	leastMinRTO = time.Millisecond
	mostMinRTO  = 10 * time.Second
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
	minRTO := tcpip.TCPMinRTOOption(cfg.MinRTO)
	switch {
	case cfg.MinRTO == 0:
		minRTO = tcpip.TCPMinRTOOption(DefaultMinRTO)
	case cfg.MinRTO < leastMinRTO || cfg.MinRTO > mostMinRTO:
		return fmt.Errorf("least retransmission timeout %v: use %v to %v", cfg.MinRTO, leastMinRTO, mostMinRTO)
	}
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	sack := tcpip.TCPSACKEnabled(true)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sendBuffers, &receiveBuffers, &moderate, &sack, &recovery, &minRTO} {
		if terr := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
			return fmt.Errorf("set TCP option %T: %w", opt, errno(terr))
		}
	}
	if terr := s.ns.SetTransportProtocolOption(tcp.ProtocolNumber, &cc); terr != nil {
		return fmt.Errorf("congestion control %q: use one of %s", cc, strings.Join(CongestionControls, ", "))
	}
	return nil
}
