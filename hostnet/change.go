package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The kinds of change.
const (
	opUp     = "up"     // Link was brought up
	opMTU    = "mtu"    // Link's MTU went from Old to New
	opMAC    = "mac"    // Link's hardware address went from Old to New
	opAddr   = "addr"   // Addr was added to Link
	opRoute  = "route"  // a route to Addr was added through Link
	opMaster = "master" // Link became a port of Master
	opSysctl = "sysctl" // Key went from Old to New
	opTable  = "table"  // the nftables table Table, family inet, was made
	opUndone = "undone" // change N was undone, or was never made
)

// The sysctls that are changed.
const (
	keyForward4 = "net.ipv4.ip_forward"
	keyForward6 = "net.ipv6.conf.all.forwarding"
	keyAcceptRA = "net.ipv6.conf.LINK.accept_ra" // of Link
)

// Bounds of a journal, which is read back as hostile input.
const (
	maxLine  = 64 << 10 // bytes of one record
	maxLines = 4096
	maxFile  = 1 << 20 // bytes of one journal
	maxSide  = 256
)

// A change is one line of a journal. Interfaces are named and numbered: if the
// two do not belong together any more the interface is another one.
type change struct {
	N           int    `json:"n"`
	Op          string `json:"op"`
	Link        string `json:"link,omitempty"`
	Index       int    `json:"index,omitempty"`
	Addr        string `json:"addr,omitempty"`
	Master      string `json:"master,omitempty"`
	MasterIndex int    `json:"master_index,omitempty"`
	Key         string `json:"key,omitempty"`
	Old         string `json:"old,omitempty"`
	New         string `json:"new,omitempty"`
	// Side holds values below net.ipv4.conf or net.ipv6.conf, as
	// "eth0/forwarding", that writing Key overwrites and that writing Old to it
	// does not bring back.
	Side  map[string]string `json:"side,omitempty"`
	Table string            `json:"table,omitempty"`
	// Owned tables vanish by themselves.
	Owned bool `json:"owned,omitempty"`
}

// A header is the first line of a journal: whose it is.
type header struct {
	Format string `json:"format"` // journalFormat
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Boot   string `json:"boot"`
	NetNS  uint64 `json:"netns"` // inode
	Cookie uint64 `json:"cookie"`
	Tap    string `json:"tap"`
}

const journalFormat = "ustack-hostnet-1"

// String returns the command that makes the change.
func (c change) String() string {
	switch c.Op {
	case opUp:
		return fmt.Sprintf("ip link set %s up", c.Link)
	case opMTU:
		return fmt.Sprintf("ip link set %s mtu %s", c.Link, c.New)
	case opMAC:
		return fmt.Sprintf("ip link set %s address %s", c.Link, c.New)
	case opAddr:
		return fmt.Sprintf("ip addr add %s dev %s", c.Addr, c.Link)
	case opRoute:
		return fmt.Sprintf("ip route add %s dev %s", c.Addr, c.Link)
	case opMaster:
		return fmt.Sprintf("ip link set %s master %s", c.Link, c.Master)
	case opSysctl:
		return fmt.Sprintf("sysctl -w %s=%s", c.key(), c.New)
	case opTable:
		return "nft add table inet " + c.Table
	}
	return c.Op
}

// key returns Key with the name of the link in it, as sysctl(8) writes it.
func (c change) key() string {
	return strings.Replace(c.Key, "LINK", strings.ReplaceAll(c.Link, ".", "/"), 1)
}

// same returns whether c and o hold the same sysctl.
func (c change) same(o change) bool {
	return c.Op == opSysctl && o.Op == opSysctl && c.Key == o.Key && c.Link == o.Link && c.Index == o.Index
}

// decodeJournal reads a whole journal: its header, and the changes not undone, in
// order. The last line may be cut short: what it was to announce was never done.
func decodeJournal(b []byte) (header, []change, error) {
	var head header
	if len(b) > maxFile {
		return head, nil, fmt.Errorf("longer than %d bytes", maxFile)
	}
	var changes []change
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			if n == 1 {
				return head, nil, errors.New("line 1: cut short")
			}
			return head, changes, nil
		}
		b = rest
		if n > maxLines {
			return head, nil, fmt.Errorf("more than %d lines", maxLines)
		}
		if len(line) > maxLine {
			return head, nil, fmt.Errorf("line %d: longer than %d bytes", n, maxLine)
		}
		if n == 1 {
			if err := decodeStrict(line, &head); err != nil {
				return head, nil, fmt.Errorf("line 1: %w", err)
			}
			if err := head.validate(); err != nil {
				return head, nil, fmt.Errorf("line 1: %w", err)
			}
			continue
		}
		var c change
		if err := decodeStrict(line, &c); err != nil {
			return head, nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := c.validate(); err != nil {
			return head, nil, fmt.Errorf("line %d: %w", n, err)
		}
		i := indexOf(changes, c.N)
		switch {
		case c.Op == opUndone && i >= 0:
			changes = append(changes[:i], changes[i+1:]...)
		case c.Op == opUndone:
			return head, nil, fmt.Errorf("line %d: change %d is not there to be undone", n, c.N)
		case i >= 0:
			return head, nil, fmt.Errorf("line %d: change %d is there twice", n, c.N)
		default:
			changes = append(changes, c)
		}
	}
}

func indexOf(changes []change, n int) int {
	for i := range changes {
		if changes[i].N == n {
			return i
		}
	}
	return -1
}

// decodeStrict decodes exactly one JSON value without unknown fields.
func decodeStrict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

func (h *header) validate() error {
	switch {
	case h.Format != journalFormat:
		return fmt.Errorf("format %q, want %q", h.Format, journalFormat)
	case h.PID <= 0 || h.PID > 1<<22:
		return fmt.Errorf("process %d", h.PID)
	case len(h.Boot) > 64:
		return errors.New("boot id too long")
	}
	return validLinkName(h.Tap)
}

// validate refuses what could not have been written by a Host: a journal must not
// lead to anything but the undoing of what Hosts do.
func (c *change) validate() error {
	if c.N < 1 || c.N > maxLines {
		return fmt.Errorf("change %d", c.N)
	}
	if len(c.Side) > maxSide {
		return fmt.Errorf("more than %d side values", maxSide)
	}
	switch c.Op {
	case opUndone:
		return nil
	case opTable:
		if !strings.HasPrefix(c.Table, tablePrefix) || len(c.Table) > len(tablePrefix)+32 {
			return fmt.Errorf("table %q is not of ustack", c.Table)
		}
		return nil
	case opSysctl:
		return c.validateSysctl()
	}
	if err := c.validateLink(); err != nil {
		return err
	}
	switch c.Op {
	case opUp:
		return nil
	case opMTU:
		for _, s := range []string{c.Old, c.New} {
			if n, err := strconv.Atoi(s); err != nil || n < 1 || n > 1<<20 {
				return fmt.Errorf("MTU %q", s)
			}
		}
		return nil
	case opMAC:
		for _, s := range []string{c.Old, c.New} {
			if mac, err := net.ParseMAC(s); err != nil || len(mac) != 6 {
				return fmt.Errorf("hardware address %q", s)
			}
		}
		return nil
	case opAddr, opRoute:
		if p, err := netip.ParsePrefix(c.Addr); err != nil || p.Addr().Zone() != "" {
			return fmt.Errorf("address %q", c.Addr)
		}
		return nil
	case opMaster:
		if c.MasterIndex <= 0 {
			return fmt.Errorf("bridge number %d", c.MasterIndex)
		}
		return validLinkName(c.Master)
	}
	return fmt.Errorf("unknown change %q", c.Op)
}

func (c *change) validateLink() error {
	if c.Index <= 0 {
		return fmt.Errorf("interface number %d", c.Index)
	}
	return validLinkName(c.Link)
}

func (c *change) validateSysctl() error {
	switch c.Key {
	case keyForward4, keyForward6:
	case keyAcceptRA:
		if err := c.validateLink(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("sysctl %q is not one of ours", c.Key)
	}
	for _, v := range []string{c.Old, c.New} {
		if !validValue(v) {
			return fmt.Errorf("value %q", v)
		}
	}
	for k, v := range c.Side {
		link, name, ok := strings.Cut(k, "/")
		if !ok || validLinkName(link) != nil || !validValue(v) || name != "forwarding" && k != "all/accept_redirects" {
			return fmt.Errorf("side value %q=%q", k, v)
		}
	}
	return nil
}

// validValue returns whether v is a small number, as our sysctls are.
func validValue(v string) bool {
	n, err := strconv.Atoi(v)
	return err == nil && n >= -1 && n <= 9 && len(v) <= 2
}
