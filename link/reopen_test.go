package link

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// A stationed Device delivers to one address.
type stationed struct {
	Device
	mac net.HardwareAddr
}

func (d *stationed) Info() Info {
	i := d.Device.Info()
	i.Station = d.mac
	return i
}

// A wire that returns with another address, as a macvtap that was made anew, is warned of.
func TestReopenElsewhere(t *testing.T) {
	var log bytes.Buffer
	first, far := Pipe(PipeConfig{})
	second, far2 := Pipe(PipeConfig{})
	defer far2.Close()
	dev := Reopen(&stationed{first, net.HardwareAddr{2, 0, 0, 0, 0, 1}}, func() (Device, error) {
		return &stationed{second, net.HardwareAddr{2, 0, 0, 0, 0, 2}}, nil
	}, slog.New(slog.NewTextHandler(&log, nil)))
	far.Close()
	if _, err := dev.Queues()[0].Write([]OutFrame{{Pieces: [][]byte{make([]byte, 60)}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.(*reopened).current(); err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if !strings.Contains(log.String(), "address=02:00:00:00:00:02 before=02:00:00:00:00:01") {
		t.Error(log.String())
	}
}

func TestReopen(t *testing.T) {
	fars := make(chan Device, 1)
	ready := make(chan struct{}, 10)
	open := func() (Device, error) {
		select {
		case <-ready:
		default:
			return nil, os.ErrNotExist
		}
		near, far := Pipe(PipeConfig{})
		fars <- far
		return near, nil
	}
	first, far := Pipe(PipeConfig{})
	dev := Reopen(first, open, nil)
	frame := make([]byte, 60)
	write := func(d Device) (int, error) {
		return d.Queues()[0].Write([]OutFrame{{Pieces: [][]byte{frame}}})
	}
	got := make(chan int, 16)
	ended := make(chan error, 1)
	go func() {
		in := []Frame{{Buf: make([]byte, 2000)}}
		for {
			n, err := dev.Queues()[0].Read(in)
			if err != nil {
				ended <- err
				return
			}
			got <- n
		}
	}()
	for i := range 3 {
		if n, err := write(far); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		<-got
		if n, err := write(dev); n != 1 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		far.Close()
		for dev.(*reopened).present() {
			time.Sleep(time.Millisecond)
		}
		if n, err := write(dev); n != 0 || err != nil {
			t.Errorf("Write without a wire = %d, %v", n, err)
		}
		s := dev.Stats()
		if want := uint64(i + 1); s.RxFrames != want || s.TxFrames != want || s.Drops["tx_down"] != want || s.Waiting == "" {
			t.Errorf("after %d wires: %+v", i+1, s)
		}
		ready <- struct{}{}
		far = <-fars
		if _, err := dev.(*reopened).current(); err != nil {
			t.Fatal(err)
		}
	}
	far.Close()
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := write(dev); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
}

func (d *reopened) present() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now != nil
}
