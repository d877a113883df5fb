package link

import (
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
)

func TestCheckOut(t *testing.T) {
	plain := Info{MTU: 1500}
	full := Info{MTU: 1500, TX: OffloadCsum | OffloadTSO4 | OffloadTSO6 | OffloadECN}
	csum := Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}
	tso4, tso6, ecn := csum, csum, csum
	tso4.GSOType, tso4.GSOSize = GSOTCPv4, 1448
	tso6.GSOType, tso6.GSOSize = GSOTCPv6, 1428
	ecn = tso4
	ecn.ECN = true
	const passed = numDrops
	for _, c := range []struct {
		name string
		info Info
		n    int
		o    Offload
		want Drop
	}{
		{"nothing", plain, 0, Offload{}, DropTxShort},
		{"13 bytes", plain, 13, Offload{}, DropTxShort},
		{"14 bytes", plain, 14, Offload{}, passed},
		{"as long as the MTU", plain, 1514, Offload{}, passed},
		{"with a VLAN tag", plain, 1518, Offload{}, passed},
		{"longer", plain, 1519, Offload{}, DropTxOversize},
		{"longer, with a checksum to do", full, 1519, csum, DropTxOversize},
		{"super-frame", full, 1519, tso4, passed},
		{"longest super-frame", full, MaxFrame, tso6, passed},
		{"longer super-frame", full, MaxFrame + 1, tso6, DropTxOversize},
		{"longest of all, whatever the MTU", Info{MTU: MaxMTU}, MaxFrame + 1, Offload{}, DropTxOversize},
		{"checksum", full, 60, csum, passed},
		{"checksum not taken", plain, 60, csum, DropTxOffload},
		{"tso4 not taken", Info{MTU: 1500, TX: OffloadCsum | OffloadTSO6}, 3000, tso4, DropTxOffload},
		{"tso6 not taken", Info{MTU: 1500, TX: OffloadCsum | OffloadTSO4}, 3000, tso6, DropTxOffload},
		{"ecn", full, 3000, ecn, passed},
		{"ecn not taken", Info{MTU: 1500, TX: OffloadCsum | OffloadTSO4}, 3000, ecn, DropTxOffload},
		{"checksum beyond the frame", full, 51, csum, DropTxOffload},
	} {
		b := make([]byte, c.n)
		f := OutFrame{Pieces: [][]byte{nil, b[:c.n/2], {}, b[c.n/2:]}, Offload: c.o}
		n, why, ok := c.info.CheckOut(&f)
		if ok != (c.want == passed) || !ok && why != c.want || n != c.n {
			t.Errorf("%s: %d, %v, %v, want %d, %v", c.name, n, why, ok, c.n, c.want)
		}
	}
}

func TestCounters(t *testing.T) {
	var c Counters
	if st := c.Stats(); !reflect.DeepEqual(st, Stats{}) {
		t.Errorf("new counters: %+v", st)
	}
	c.Rx(2, 100)
	c.Rx(1, 14)
	c.Tx(3, 300)
	names := make(map[string]bool)
	for d := range numDrops {
		name := d.String()
		if name == "unknown" || names[name] || !strings.HasPrefix(name, "rx_") && !strings.HasPrefix(name, "tx_") {
			t.Errorf("drop %d is named %q", d, name)
		}
		names[name] = true
		for range int(d) + 1 {
			c.Drop(d)
		}
	}
	if s := numDrops.String(); s != "unknown" {
		t.Errorf("a drop that is none is named %q", s)
	}
	st := c.Stats()
	if st.RxFrames != 3 || st.RxBytes != 114 || st.TxFrames != 3 || st.TxBytes != 300 || len(st.Drops) != int(numDrops) {
		t.Errorf("stats %+v", st)
	}
	for d := range numDrops {
		if st.Drops[d.String()] != uint64(d)+1 {
			t.Errorf("%v = %d, want %d", d, st.Drops[d.String()], d+1)
		}
	}
	var few Counters
	few.Tx(1, 60)
	few.Drop(DropTxDown)
	b, err := json.Marshal(few.Stats())
	if want := `{"rx_frames":0,"rx_bytes":0,"tx_frames":1,"tx_bytes":60,"drops":{"tx_down":1}}`; err != nil || string(b) != want {
		t.Errorf("JSON %s, %v, want %s", b, err, want)
	}
}

func TestErrors(t *testing.T) {
	if !errors.Is(ErrClosed, net.ErrClosed) {
		t.Error("ErrClosed is not net.ErrClosed")
	}
	if errors.Is(ErrGone, net.ErrClosed) || errors.Is(ErrClosed, ErrGone) {
		t.Error("ErrGone and ErrClosed are not told apart")
	}
	for mtu, ok := range map[int]bool{MinMTU - 1: false, MinMTU: true, 1500: true, MaxMTU: true, MaxMTU + 1: false, -1: false} {
		if err := CheckMTU(mtu); (err == nil) != ok {
			t.Errorf("CheckMTU(%d): %v", mtu, err)
		}
	}
}
