package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// recover undoes what dead processes left in this network namespace. The state
// directory is locked, if there is one.
func (h *Host) recover() {
	if h.state.path == "" {
		return
	}
	dead, _, warnings := h.state.scan(nil)
	h.warnings = append(h.warnings, warnings...)
	boot := bootID()
	foreign := 0
	slices.SortFunc(dead, func(a, b foundJournal) int { return b.mtime.Compare(a.mtime) })
	for _, j := range dead {
		left := false
		switch {
		case j.Boot != boot:
			// What it changed went with that boot.
		case j.NetNS != h.ns.inode || j.Cookie != h.ns.cookie:
			foreign++
			left = foreign <= maxForeign && time.Since(j.mtime) < foreignAge
		default:
			left = h.recoverOne(j)
		}
		if !left {
			os.Remove(j.path)
		}
		j.file.Close()
	}
}

// recoverOne undoes one journal and returns whether something is left of it.
func (h *Host) recoverOne(j foundJournal) (left bool) {
	own := &journal{f: j.file}
	for _, c := range slices.Backward(j.changes) {
		if h.inUse(c) {
			left = true
			continue
		}
		if err := h.undo(c, own); err != nil {
			h.warn("left by ustack process %d, which was killed, and not undone: %s: %v", j.PID, c, err)
			left = true
			continue
		}
		h.log.Info("hostnet: undone what a killed ustack left", "pid", j.PID, "change", c.String())
		if err := own.append(change{Op: opUndone, N: c.N}); err != nil {
			h.log.Debug("hostnet: journal", "err", err)
		}
	}
	return left
}

// inUse returns whether c is on a tap, not ours, that some process has open: a tap
// has a carrier only then.
func (h *Host) inUse(c change) bool {
	if c.Link == "" || c.Link == h.cfg.Tap {
		return false
	}
	link, ok := h.find(c.Link, c.Index)
	return ok && link.Type() == "tuntap" && link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// undo undoes c as far as what it made is still there. own is the journal that c
// is in.
func (h *Host) undo(c change, own *journal) error {
	switch c.Op {
	case opSysctl:
		return h.undoSysctl(c, own)
	case opTable:
		return h.undoTable(c)
	}
	link, ok := h.find(c.Link, c.Index)
	if !ok {
		return nil
	}
	var err error
	switch c.Op {
	case opUp:
		if link.Attrs().Flags&net.FlagUp != 0 {
			err = h.nl.LinkSetDown(link)
		}
	case opMTU:
		if old, perr := strconv.Atoi(c.Old); perr == nil && strconv.Itoa(link.Attrs().MTU) == c.New {
			err = h.nl.LinkSetMTU(link, old)
		}
	case opMAC:
		if old, perr := net.ParseMAC(c.Old); perr == nil && link.Attrs().HardwareAddr.String() == c.New {
			err = h.nl.LinkSetHardwareAddr(link, old)
		}
	case opAddr:
		p, perr := netip.ParsePrefix(c.Addr)
		if perr != nil {
			return perr
		}
		err = h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
	case opRoute:
		p, perr := netip.ParsePrefix(c.Addr)
		if perr != nil {
			return perr
		}
		err = h.nl.RouteDel(tapRoute(link, p))
	case opMaster:
		if link.Attrs().MasterIndex == c.MasterIndex {
			err = h.nl.LinkSetNoMaster(link)
		}
	}
	// Gone already: an interface that went down or away took it along.
	for _, gone := range []error{unix.EADDRNOTAVAIL, unix.ESRCH, unix.ENODEV, unix.ENETDOWN, unix.ENOENT} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// undoSysctl hands a sysctl over to a living Host that needs it too, or sets it
// back. A value that somebody else has changed since stays.
func (h *Host) undoSysctl(c change, own *journal) error {
	if _, held := h.heldByOther(c, own); held {
		h.log.Debug("hostnet: left to another ustack", "sysctl", c.key())
		return nil
	}
	if c.Key == keyAcceptRA {
		if _, ok := h.find(c.Link, c.Index); !ok {
			return nil
		}
	}
	now, err := readSysctl(c.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if now != c.New {
		return nil
	}
	if err := writeSysctl(c.path(), c.Old); err != nil {
		return err
	}
	return c.restoreSide()
}

// heldByOther returns the change by which another living Host in this namespace
// holds the same sysctl.
func (h *Host) heldByOther(c change, own *journal) (change, bool) {
	if h.state.path == "" {
		return change{}, false
	}
	dead, live, _ := h.state.scan(own)
	for _, j := range dead {
		j.file.Close()
	}
	for _, j := range live {
		if j.NetNS != h.ns.inode || j.Cookie != h.ns.cookie {
			continue
		}
		for _, o := range j.changes {
			if c.same(o) {
				return o, true
			}
		}
	}
	return change{}, false
}

// undoTable deletes our table, or what is left of that of a dead process on a
// kernel without owned tables.
func (h *Host) undoTable(c change) error {
	if h.nft != nil && h.table != nil && h.table.Name == c.Table {
		h.nft.DelTable(h.table)
		err := h.nft.Flush()
		h.nft.CloseLasting()
		h.nft, h.table = nil, nil
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if c.Owned {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == c.Table && t.Flags&tableOwner == 0 {
			conn.DelTable(t)
			return conn.Flush()
		}
	}
	return nil
}

// find returns the interface that has both this name and this number.
func (h *Host) find(name string, index int) (netlink.Link, bool) {
	link, err := h.nl.LinkByIndex(index)
	if err != nil || link.Attrs().Name != name {
		return nil, false
	}
	return link, true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// tapRoute is the route to a network of the stack's that lies behind link.
func tapRoute(link netlink.Link, p netip.Prefix) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p.Masked())}
	if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// isPermission returns whether err is for want of a capability.
func isPermission(err error) bool { return errors.Is(err, os.ErrPermission) }

// needsRoot makes an error of a change that was not permitted.
func needsRoot(what string, err error, commands string) error {
	if !isPermission(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed; as root: %s", what, err, commands)
}
