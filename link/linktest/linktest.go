// Package linktest holds every link.Device to the contract of package link: one
// suite of checks that a driver's test runs against a wire it can reach from both
// sides. It also has a Device that loses, damages and fails on purpose, for tests
// of what stands above a Device.
package linktest

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// A Wire is the other side of a Device under test: what puts frames in front of
// its readers and sees what it writes. One goroutine uses it at a time.
type Wire interface {
	// Send puts one frame on the wire, towards the Device. o is within the Device's
	// Info.RX. frame is not kept.
	Send(frame []byte, o link.Offload) error
	// Recv returns the next frame from the Device, and what is known of its
	// offloads. It waits for at most d, then returns os.ErrDeadlineExceeded. Frames
	// need not be taken from the Device before the first call of Recv, but those
	// written since the Wire was made must not be lost as long as they are fewer
	// than 128.
	Recv(d time.Duration) (frame []byte, o link.Offload, err error)
	// Remove takes the wire away under the Device, as a deleted interface does. It returns
	// errors.ErrUnsupported where that cannot be: nothing tells a datagram socket that its peer
	// will not come back.
	Remove() error
	// Close releases everything of this side. It is called once, after the Device
	// was closed, whether Remove was called or not.
	Close() error
}

// MakeDevice makes a new Device that nobody uses yet, and the other side of its
// wire, over which frames already pass. It is called several times in a test.
type MakeDevice func(t testing.TB) (link.Device, Wire)

// patience is how long a check waits for what must happen. What must not happen is
// never waited for.
const patience = 10 * time.Second

// TestDevice runs every check as a subtest. Nothing else may run beside it, since
// goroutines and descriptors are counted.
func TestDevice(t *testing.T, make MakeDevice) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			c.run(&suite{TB: t, make: make, patience: patience})
		})
	}
}

// A check is one rule of the contract.
type check struct {
	name string
	run  func(*suite)
}

func checks() []check {
	return []check{
		{"Info", checkInfo},
		{"Order", checkOrder},
		{"OrderOut", checkOrderOut},
		{"ReadSeveral", checkReadSeveral},
		{"ReadNone", checkReadNone},
		{"Sizes", checkSizes},
		{"ShortOut", checkShortOut},
		{"OversizeOut", checkOversizeOut},
		{"OversizeIn", checkOversizeIn},
		{"NoBuffer", checkNoBuffer},
		{"Pieces", checkPieces},
		{"Scribble", checkScribble},
		{"ConcurrentWriters", checkConcurrentWriters},
		{"BothWays", checkBothWays},
		{"FlowKeepsQueue", checkFlowKeepsQueue},
		{"NeverWaits", checkNeverWaits},
		{"StatsAddUp", checkStatsAddUp},
		{"OffloadOut", checkOffloadOut},
		{"OffloadIn", checkOffloadIn},
		{"OffloadReset", checkOffloadReset},
		{"OffloadRefused", checkOffloadRefused},
		{"CloseUnblocksRead", checkCloseUnblocksRead},
		{"CloseUnderWrite", checkCloseUnderWrite},
		{"CloseTwice", checkCloseTwice},
		{"CloseAtOnce", checkCloseAtOnce},
		{"AfterClose", checkAfterClose},
		{"Gone", checkGone},
		{"NothingLeft", checkNothingLeft},
	}
}

// A suite is what one check works with.
type suite struct {
	testing.TB
	make     MakeDevice
	patience time.Duration
}

// open makes a Device for the check; both sides are closed at its end.
func (s *suite) open() (link.Device, Wire) {
	s.Helper()
	dev, wire := s.make(s.TB)
	s.Cleanup(func() {
		s.closeAll(dev, wire)
	})
	return dev, wire
}

func (s *suite) closeAll(dev link.Device, wire Wire) {
	s.within("Close of the Device", func() {
		if err := dev.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	s.within("Close of the Wire", func() {
		if err := wire.Close(); err != nil {
			s.Errorf("Close of the Wire: %v", err)
		}
	})
}

// within runs f, which must not call Fatal, and fails the check when it does not
// return.
func (s *suite) within(what string, f func()) {
	s.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(s.patience):
		s.Fatalf("%s did not return within %v", what, s.patience)
	}
}

// eventually polls cond, for what gives no event.
func (s *suite) eventually(what string, cond func() bool) {
	s.Helper()
	deadline := time.Now().Add(s.patience)
	for !cond() {
		if time.Now().After(deadline) {
			s.Fatalf("after %v still not: %s", s.patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// write writes frames to queue 0, each in one piece, and wants n of them taken.
func (s *suite) write(dev link.Device, n int, frames ...[]byte) {
	s.Helper()
	out := make([]link.OutFrame, len(frames))
	for i, f := range frames {
		out[i].Pieces = [][]byte{f}
	}
	s.writeOut(dev, n, out...)
}

func (s *suite) writeOut(dev link.Device, n int, out ...link.OutFrame) {
	s.Helper()
	var got int
	var err error
	s.within("Write", func() { got, err = dev.Queues()[0].Write(out) })
	if got != n || err != nil {
		s.Fatalf("Write of %d frames = %d, %v, want %d; %s", len(out), got, err, n, drops(dev))
	}
}

// send puts frames on the wire towards the Device.
func (s *suite) send(wire Wire, frames ...[]byte) {
	s.Helper()
	for _, f := range frames {
		if err := wire.Send(f, link.Offload{}); err != nil {
			s.Fatalf("Send of %d bytes: %v", len(f), err)
		}
	}
}

// recv returns the next frame of ours from the Device.
func (s *suite) recv(wire Wire) ([]byte, link.Offload) {
	s.Helper()
	deadline := time.Now().Add(s.patience)
	for {
		f, o, err := wire.Recv(time.Until(deadline))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.Fatalf("no frame came out of the Device within %v", s.patience)
		}
		if err != nil {
			s.Fatalf("Recv: %v", err)
		}
		if ours(f) {
			return f, o
		}
	}
}

// wantOut receives frames and compares them.
func (s *suite) wantOut(wire Wire, want ...[]byte) {
	s.Helper()
	for i, w := range want {
		got, _ := s.recv(wire)
		s.same("frame out", i, got, w)
	}
}
