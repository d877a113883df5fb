package stack

import (
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/ustack/ustack/link"
)

// TestTune has every setting reach netstack, and data get across with it.
func TestTune(t *testing.T) {
	for _, cc := range append([]string{""}, CongestionControls...) {
		for _, detection := range append([]string{""}, LossDetections...) {
			a, b := pair(t, link.PipeConfig{}, func(a, b *Config) {
				a.CongestionControl, a.LossDetection = cc, detection
			})
			var gotCC tcpip.CongestionControlOption
			var recovery tcpip.TCPRecovery
			for _, opt := range []tcpip.GettableTransportProtocolOption{&gotCC, &recovery} {
				if terr := a.ns.TransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
					t.Fatal(terr)
				}
			}
			wantCC, rack := cc, detection != "sack"
			if wantCC == "" {
				wantCC = DefaultCongestionControl
			}
			if string(gotCC) != wantCC || (recovery&tcpip.TCPRACKLossDetection != 0) != rack {
				t.Errorf("%q, %q: netstack has %s, recovery %d", cc, detection, gotCC, recovery)
			}
			c, s := connect(t, a, b, "10.0.0.2")
			if err := exchange(c, s); err != nil {
				t.Errorf("%q, %q: %v", cc, detection, err)
			}
			c.Close()
			s.Close()
		}
	}
	for _, bad := range []Config{{CongestionControl: "bbr"}, {LossDetection: "none"}} {
		wire, far := link.Pipe(link.PipeConfig{})
		bad.Device = wire
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), "use one of") {
			t.Errorf("New(%+v): %v", bad, err)
		}
		wire.Close()
		far.Close()
	}
}

func exchange(c, s *TCPConn) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := s.Read(make([]byte, 1))
	return err
}
