package e2e

import (
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// A server that closes its listener between two clients, and listens again at once, is there for all.
func TestRunListenAgain(t *testing.T) {
	t.Parallel()
	s := theSide(t)
	p := s.start(t, "iperf3", "-s", "--forceflush")
	p.WaitOutput(t, `Server listening`, 10*time.Second)
	for i := range 20 {
		if r := runIn(t, s.host, nil, netlab.Peer(t, "iperf3"), "-n", "1K", "-c", stack4); r.code != 0 {
			t.Errorf("client %d: %v", i+1, r)
		}
	}
}
