package stack

import (
	"strings"
	"testing"
	"time"

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
				if cc != "" {
					a.MinRTO = time.Second
				}
			})
			var gotCC tcpip.CongestionControlOption
			var recovery tcpip.TCPRecovery
			var minRTO tcpip.TCPMinRTOOption
			for _, opt := range []tcpip.GettableTransportProtocolOption{&gotCC, &recovery, &minRTO} {
				if terr := a.ns.TransportProtocolOption(tcp.ProtocolNumber, opt); terr != nil {
					t.Fatal(terr)
				}
			}
			wantCC, rack, wantRTO := cc, detection == "rack", time.Second
			if wantCC == "" {
				wantCC, wantRTO = DefaultCongestionControl, DefaultMinRTO
			}
			if string(gotCC) != wantCC || (recovery&tcpip.TCPRACKLossDetection != 0) != rack || time.Duration(minRTO) != wantRTO {
				t.Errorf("%q, %q: netstack has %s, recovery %d, least timeout %v", cc, detection, gotCC, recovery, time.Duration(minRTO))
			}
			c, s := connect(t, a, b, "10.0.0.2")
			if err := exchange(c, s); err != nil {
				t.Errorf("%q, %q: %v", cc, detection, err)
			}
			c.Close()
			s.Close()
		}
	}
	for _, bad := range []Config{{CongestionControl: "bbr"}, {LossDetection: "none"}, {MinRTO: -1}, {MinRTO: time.Hour}} {
		wire, far := link.Pipe(link.PipeConfig{})
		bad.Device = wire
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), ": use ") {
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
