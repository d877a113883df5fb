package hostnet

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h: the
// same numbers and layouts for both, but for the length of an entry's match.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES, IP6T_SO_GET_ENTRIES

	xtNameLen     = 32                        // XT_TABLE_MAXNAMELEN
	xtInfoLen     = xtNameLen + 4 + 2*5*4 + 8 // struct ipt_getinfo
	xtEntriesHead = (xtNameLen + 4 + 7) &^ 7  // struct ipt_get_entries, entries are aligned to 8
	xtTargetLen   = 32                        // struct xt_entry_target
	xtMaxSize     = 16 << 20                  // bytes of a table we are ready to look at
	hookForward   = unix.NF_INET_FORWARD      // index of the chain in hook_entry and underflow
	xtUnderflow   = xtNameLen + 4 + 5*4       // offset of ipt_getinfo.underflow
	xtSize        = xtNameLen + 4 + 2*5*4 + 4 // offset of ipt_getinfo.size
	verdictDrop   = -1                        // -NF_DROP - 1, as a standard target holds it
)

// legacyDrops returns which of "iptables" and "ip6tables", in the old kernel
// interface that nf_tables does not show, drop what no rule of FORWARD accepts.
func legacyDrops(v4, v6 bool) []string {
	var out []string
	if v4 && legacyLoaded("ip_tables_names") && legacyDrop(unix.AF_INET, unix.SOL_IP, 88) {
		out = append(out, "iptables")
	}
	if v6 && legacyLoaded("ip6_tables_names") && legacyDrop(unix.AF_INET6, unix.SOL_IPV6, 140) {
		out = append(out, "ip6tables")
	}
	return out
}

// legacyLoaded returns whether the filter table is there. Asking for it by
// getsockopt would make it.
func legacyLoaded(file string) bool {
	b, err := os.ReadFile("/proc/thread-self/net/" + file)
	return err == nil && slices.Contains(strings.Fields(string(b)), "filter")
}

// legacyDrop asks for the policy of chain FORWARD. targetOffset is where an entry
// says how far after its beginning its target is.
func legacyDrop(family, level, targetOffset int) bool {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info := make([]byte, xtInfoLen)
	copy(info, "filter")
	if getsockopt(fd, level, soGetInfo, info) != nil {
		return false
	}
	size := binary.NativeEndian.Uint32(info[xtSize:])
	if size > xtMaxSize {
		return false
	}
	entries := make([]byte, xtEntriesHead+int(size))
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[xtNameLen:], size)
	if getsockopt(fd, level, soGetEntries, entries) != nil {
		return false
	}
	underflow := binary.NativeEndian.Uint32(info[xtUnderflow+4*hookForward:])
	return policyDrops(entries[xtEntriesHead:], underflow, targetOffset)
}

// policyDrops returns whether the entry at underflow, the last of a built-in
// chain, drops.
func policyDrops(entries []byte, underflow uint32, targetOffset int) bool {
	if uint64(underflow)+uint64(targetOffset)+2 > uint64(len(entries)) {
		return false
	}
	entry := entries[underflow:]
	verdict := int(binary.NativeEndian.Uint16(entry[targetOffset:])) + xtTargetLen
	if verdict+4 > len(entry) {
		return false
	}
	return int32(binary.NativeEndian.Uint32(entry[verdict:])) == verdictDrop
}

func getsockopt(fd, level, name int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
