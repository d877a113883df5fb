package control

import (
	"context"
	"net/http"
	"syscall"
	"time"
)

// A Switch is a Backend behind which frames are switched between ports. It may be one without a
// stack.
type Switch interface {
	// FDB returns the ports and where stations are; ok is false where nothing is switched.
	FDB() (fdb FDB, ok bool)
}

// An FDB is the forwarding database of a switch, as bridge(8) calls it.
type FDB struct {
	Ports    []Port    `json:"ports"`
	Stations []Station `json:"stations"`
}

// A Port is one port of a switch.
type Port struct {
	Name   string `json:"name"`
	Spec   string `json:"spec,omitempty"` // as given to --port; "" for the stack's own
	Kind   string `json:"kind"`
	Driver string `json:"driver,omitempty"`
	MTU    int    `json:"mtu"`
	// State is "forwarding", "looping" (shut for a while), "waiting" (for the far end) or "gone".
	State    string `json:"state"`
	Why      string `json:"why,omitempty"` // of a state that is not forwarding
	Isolated bool   `json:"isolated,omitempty"`
	RxFrames uint64 `json:"rx_frames"` // that came in at the port
	RxBytes  uint64 `json:"rx_bytes"`
	TxFrames uint64 `json:"tx_frames"` // that left by it
	TxBytes  uint64 `json:"tx_bytes"`
	// Drops counts frames that were not passed on, by reason: those of the device as for a Link, and
	// "switch_" with what the switch had against a frame that came in here.
	Drops map[string]uint64 `json:"drops,omitempty"`
	// Flooded are frames that came in here and went to all other ports; Stations are known here;
	// Moves came from another port; Unlearned are frames of stations there was no room for.
	Flooded   uint64 `json:"flooded"`
	Stations  int    `json:"stations"`
	Moves     uint64 `json:"moves"`
	Unlearned uint64 `json:"unlearned"`
}

// A Station is where a hardware address was last seen.
type Station struct {
	HardwareAddr string        `json:"hardware_addr"`
	Port         string        `json:"port"`
	Age          time.Duration `json:"age_ns"`
}

// FDB returns the ports and stations of the daemon's switch. The error wraps syscall.ENOENT where
// it has none.
func (c *Client) FDB(ctx context.Context) (f FDB, err error) {
	return f, c.do(ctx, "GET", "/v1/fdb", nil, &f)
}

func respondFDB(b Backend) *response {
	if s, ok := b.(Switch); ok {
		if fdb, ok := s.FDB(); ok {
			fdb.Ports, fdb.Stations = list(fdb.Ports), list(fdb.Stations)
			return &response{body: fdb}
		}
	}
	return &response{status: http.StatusNotFound, err: &remoteError{
		text: "nothing is switched here: 'ustack bridge --port SPEC...' and 'ustack up --port SPEC...' have a switch", errno: syscall.ENOENT}}
}
