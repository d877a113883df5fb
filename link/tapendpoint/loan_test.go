package tapendpoint

import (
	"bytes"
	"net"
	"testing"

	"github.com/ustack/ustack/link"
)

// TestLongFramesAreNotMixedUp sends frames on both sides of what is worth handing
// over with its memory, some of them for other stations, and checks every byte of
// what arrives after the next ones have been read.
func TestLongFramesAreNotMixedUp(t *testing.T) {
	_, r, far := start(t, link.PipeConfig{MTU: link.MaxMTU, Offloads: vouching})
	vouched := link.Offload{DataValid: true}
	var want [][]byte
	for i, n := range []int{60, loanWorth - 14, loanWorth - 15, loanLen - 14, 1500, loanLen - 14, loanWorth - 14, 40000} {
		payload := bytes.Repeat([]byte{byte(i + 1)}, n)
		dst := ownMAC
		if i%3 == 2 {
			dst = net.HardwareAddr{2, 7, 7, 7, 7, 7}
		} else {
			want = append(want, payload)
		}
		send(t, far, frame(dst, 0x88b5, payload), vouched)
	}
	var got []delivered
	for range want {
		got = append(got, r.next(t))
	}
	for i := range want {
		if !bytes.Equal(got[i].data, want[i]) {
			t.Errorf("frame %d: %d bytes, want %d of %d", i, len(got[i].data), len(want[i]), want[i][0])
		}
	}
}
