package stack

import (
	"testing"
	"time"
)

// A stream's receive buffer is smaller while another connection exchanges messages.
func TestBufferInCompany(t *testing.T) {
	var all conns
	stream, relay := &TCPConn{conns: &all}, &TCPConn{conns: &all, relay: true}
	want := func(what string, forStream, forRelay int64) {
		t.Helper()
		for c, size := range map[*TCPConn]int64{stream: forStream, relay: forRelay} {
			c.traffic.see(bulkRead, &all.company)
			if got := c.wantBuffer(); got != size {
				t.Errorf("%s: %d bytes (relayed: %v), want %d", what, got, c.relay, size)
			}
		}
	}
	want("alone", shortBuffer, shortBuffer)
	for range 2 * messages {
		stream.traffic.see(1, &all.company)
	}
	want("after small reads of its own", shortBuffer, shortBuffer)
	var other traffic
	for range 2 * messages {
		other.see(1, &all.company)
	}
	want("beside messages", companyBuffer, relayBuffer)
	all.company.last.Add(-2 * int64(companyTime))
	want("when they are over", shortBuffer, shortBuffer)
	all.company.last.Store(time.Now().Add(time.Hour).UnixNano())
	want("after the clock was set back", shortBuffer, shortBuffer)
}
