package capture_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/ustack/ustack/capture"
)

// TestForeignFrames: frames of other links in a file of several are left out, and told of.
func TestForeignFrames(t *testing.T) {
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriterInterface(&b, pcapgo.NgInterface{LinkType: layers.LinkTypeEthernet}, pcapgo.DefaultNgWriterOptions)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(pcapgo.NgInterface{LinkType: layers.LinkTypeRaw}); err != nil {
		t.Fatal(err)
	}
	data := frame(60, 0)
	for _, link := range []int{0, 1, 0, 1, 1} {
		if err := w.WritePacket(gopacket.CaptureInfo{
			Timestamp: time.Unix(1, 0), CaptureLength: len(data), Length: len(data), InterfaceIndex: link,
		}, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := capture.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if rec, err := r.Read(); err != nil || rec.Link != 0 || !rec.NoWay {
			t.Fatalf("%+v, %v: want a frame of link 0 of an unknown direction", rec, err)
		}
	}
	if _, err := r.Read(); err == nil || err == io.EOF || !strings.Contains(err.Error(), "3 of its frames are left out, as they are Raw") {
		t.Errorf("at the end: %v", err)
	}
}

// TestNoDirection: a direction that a file does not tell is not made up by one that is written of it.
func TestNoDirection(t *testing.T) {
	recs := numbered(3, 60)
	recs[0].NoWay, recs[1].In = true, true
	r, err := capture.NewReader(bytes.NewReader(section(t, recs)))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range recs {
		if got, err := r.Read(); err != nil || got.NoWay != want.NoWay || got.In != want.In {
			t.Errorf("record %d: %+v, %v", i, got, err)
		}
	}
}
