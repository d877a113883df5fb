package hostnet

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setLegacyPolicy does what `iptables-legacy -P FORWARD DROP` does on an empty
// filter table, which asking for it makes. It returns false on a kernel without
// the old interface.
func setLegacyPolicy(t *testing.T, family, level, targetOffset int, verdict int32) bool {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	info := make([]byte, xtInfoLen)
	copy(info, "filter")
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		t.Logf("no legacy tables: %v", err)
		return false
	}
	size := int(binary.NativeEndian.Uint32(info[xtSize:]))
	num := binary.NativeEndian.Uint32(info[xtSize-4:])
	entries := make([]byte, xtEntriesHead+size)
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[xtNameLen:], uint32(size))
	if err := getsockopt(fd, level, soGetEntries, entries); err != nil {
		t.Fatal(err)
	}
	rules := entries[xtEntriesHead:]
	at := binary.NativeEndian.Uint32(info[xtUnderflow+4*hookForward:])
	target := uint32(binary.NativeEndian.Uint16(rules[int(at)+targetOffset:]))
	binary.NativeEndian.PutUint32(rules[at+target+xtTargetLen:], uint32(verdict))

	// struct ipt_replace: the name, valid_hooks, num_entries, size, hook_entry,
	// underflow, num_counters, a pointer to room for the old counters, entries.
	counters := make([]uint64, 2*num)
	var replace []byte
	replace = append(replace, info[:xtNameLen+4]...)
	replace = binary.NativeEndian.AppendUint32(replace, num)
	replace = binary.NativeEndian.AppendUint32(replace, uint32(size))
	replace = append(replace, info[xtNameLen+4:xtNameLen+4+40]...)
	replace = binary.NativeEndian.AppendUint32(replace, num)
	replace = binary.NativeEndian.AppendUint64(replace, uint64(uintptr(unsafe.Pointer(&counters[0]))))
	replace = append(replace, rules...)
	var pin runtime.Pinner
	pin.Pin(&counters[0])
	defer pin.Unpin()
	const soSetReplace = 64 // IPT_SO_SET_REPLACE
	if err := unix.SetsockoptString(fd, level, soSetReplace, string(replace)); err != nil {
		t.Fatal(err)
	}
	return true
}

// The policy is read as the kernel has it.
func TestLegacyDrops(t *testing.T) {
	ns := newHost(t)
	ns.Do(t, func() {
		if got := legacyDrops(true, true); len(got) > 0 {
			t.Errorf("a new namespace drops: %q", got)
		}
		if legacyLoaded("ip_tables_names") {
			t.Error("asking made a table")
		}
		var want4, want6 []string
		if setLegacyPolicy(t, unix.AF_INET, unix.SOL_IP, 88, verdictDrop) {
			want4 = []string{"iptables"}
		}
		if setLegacyPolicy(t, unix.AF_INET6, unix.SOL_IPV6, 140, verdictDrop) {
			want6 = []string{"ip6tables"}
		}
		for _, tt := range []struct {
			v4, v6 bool
			want   []string
		}{
			{true, true, slices.Concat(want4, want6)}, {true, false, want4}, {false, true, want6},
		} {
			if got := legacyDrops(tt.v4, tt.v6); !slices.Equal(got, tt.want) {
				t.Errorf("v4 %v v6 %v: %q, want %q", tt.v4, tt.v6, got, tt.want)
			}
		}
		h, err := Setup(Config{Tap: "tap0", StateDir: t.TempDir(), Uplink: "up0", Networks: prefixes("10.0.0.4/24")})
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, h)
		if want4 != nil {
			onlyOne(t, h.Warnings(), "iptables-legacy", "policy drop", "iptables-legacy -I FORWARD -i tap0 -o up0 -j ACCEPT")
			setLegacyPolicy(t, unix.AF_INET, unix.SOL_IP, 88, -2)
			if got := legacyDrops(true, false); len(got) > 0 {
				t.Errorf("policy accept is taken for %q", got)
			}
		}
	})
}
