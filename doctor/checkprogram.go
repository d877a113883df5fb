package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The causes that lie in what the holder of the tap makes of its frames.
const (
	CauseReaderStopped = "reader-stopped"
	CauseOverrun       = "txqueue-overrun"
	CauseEchoed        = "frames-echoed"
	CauseNoHeader      = "no-ethernet-header"
	CauseShifted       = "frames-shifted"
	CauseOffload       = "offload-mismatch"
	CauseHeld          = "tap-held"
)

// noPath are the causes with which no frame gets as far as the holder.
func noPath() []string {
	return []string{CauseRemoved, CauseMissing, CauseNotTap, CauseDown, CauseCarrier, CauseNotPermitted}
}

// holderCauses are those of a holder that spoils frames.
func holderCauses() []string {
	return []string{CauseReaderStopped, CauseOverrun, CauseEchoed, CauseNoHeader, CauseShifted, CauseOffload}
}

// programChecks look at what the holder of the tap does with its frames.
func programChecks() []Check {
	garbled := []string{CauseReaderStopped, CauseEchoed, CauseNoHeader, CauseShifted}
	return []Check{
		{Cause: CauseReaderStopped, About: "frames for the stack are read", Probed: true, After: noPath(), Find: findReaderStopped},
		{Cause: CauseOverrun, About: "frames are read as fast as they come", Probed: true, After: append(noPath(), CauseReaderStopped), Find: findOverrun},
		{Cause: CauseEchoed, About: "frames do not come back as they went", Probed: true, After: append(noPath(), CauseReaderStopped), Find: findEchoed},
		{Cause: CauseNoHeader, About: "frames have an Ethernet header", Probed: true, After: append(noPath(), CauseEchoed), Find: findNoHeader},
		{Cause: CauseShifted, About: "frames begin where they should", Probed: true, After: append(noPath(), CauseEchoed, CauseNoHeader), Find: findShifted},
		{Cause: CauseOffload, About: "both sides agree on offloads", After: append(noPath(), garbled...), Find: findOffload},
	}
}

// findReaderStopped looks for a program that does not read: a tap counts a frame as sent
// when it is read (tun_do_read in drivers/net/tun.c), so the marker shows.
func findReaderStopped(env *Environment) ([]Finding, error) {
	o := env.Observed
	if env.Mode != ModeProgram {
		return none() // a stack that answers reads
	}
	if o.Marker == nil {
		return nil, errNotProbed
	}
	if env.rose(txPackets) > 0 {
		return none()
	}
	f := Finding{
		Title: fmt.Sprintf("%s does not read the frames of %s", env.Holder(), env.Link),
		Evidence: []string{fmt.Sprintf("a frame was sent to %s, and its counter of frames read (tx_packets) stayed at %d for %v",
			env.Link, o.After[env.Link].TxPackets, o.Took.Round(100_000_000))},
	}
	if n := env.rose(txDropped); n > 0 {
		f.Evidence = append(f.Evidence, fmt.Sprintf("its queue is full: %d frames were dropped meanwhile (tx_dropped)", n))
	}
	if errors.Is(o.SendErr, unix.ENOBUFS) {
		f.Evidence = append(f.Evidence, "the kernel answered the sender with ENOBUFS")
	}
	for _, h := range env.Holders {
		if state := h.State; state != "" {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%s is in state %s", h, state))
		}
		if strings.HasPrefix(h.State, "T") || strings.HasPrefix(h.State, "t") {
			f.Remedy = append(f.Remedy, fmt.Sprintf("kill -CONT %d   # it was stopped by a signal or a debugger", h.PID))
		}
	}
	if len(f.Remedy) == 0 {
		f.Remedy = append(f.Remedy, "have the program read its descriptor all the time, or end it: one that is open and not read takes frames away from the sender")
	}
	return one(f)
}

// findOverrun looks for frames that were dropped because the queue was full while it was
// being read.
func findOverrun(env *Environment) ([]Finding, error) {
	dropped, read := env.rose(txDropped), env.rose(txPackets)
	if dropped == 0 {
		return none()
	}
	length := env.Tap().TxQLen
	return one(Finding{
		Title: fmt.Sprintf("%s reads %s too slowly: frames are dropped", orNobody(env.who()), env.Link),
		Evidence: []string{
			fmt.Sprintf("within %v %d frames were read and %d dropped as the queue was full (tx_packets, tx_dropped)", env.Observed.Took.Round(10_000_000), read, dropped),
			fmt.Sprintf("the queue of %s holds %d frames (txqueuelen)", env.Link, length),
		},
		Remedy: []string{
			fmt.Sprintf("ip link set dev %s txqueuelen %d   # for bursts; a reader that is too slow all the time needs less to do for each frame, or more queues", env.Link, max(2*length, 2000)),
		},
	})
}

// findEchoed looks for the marker among what the holder wrote.
func findEchoed(env *Environment) ([]Finding, error) {
	o := env.Observed
	if o.WatchErr != nil {
		return nil, o.WatchErr
	}
	if o.Marker == nil {
		return none()
	}
	for _, f := range env.fromTap() {
		if bytes.Equal(f.Data, o.Marker) {
			return one(Finding{
				Title: fmt.Sprintf("%s writes frames back as they came", env.Holder()),
				Evidence: []string{
					fmt.Sprintf("a frame of EtherType 0x%04x with random content came back unchanged", markerType),
					"a frame that comes back still has its receiver's address: the kernel drops it as OTHERHOST (ip_rcv_core)",
				},
				Remedy: []string{"answer with the addresses swapped: the sender's as destination, your own as source, in the Ethernet header and above it"},
			})
		}
	}
	return none()
}

// findNoHeader looks for bare packets among the frames.
func findNoHeader(env *Environment) ([]Finding, error) {
	if err := env.Observed.WatchErr; err != nil {
		return nil, err
	}
	f, shape, n := env.misshapen(func(s Shape) bool { return s.Shift == -headerLen })
	if n == 0 {
		return none()
	}
	return one(Finding{
		Title: fmt.Sprintf("%s writes packets without the 14 bytes of an Ethernet header", orNobody(env.who())),
		Evidence: []string{
			fmt.Sprintf("%d frames are whole packets of EtherType 0x%04x from their first byte on: %s", n, shape.EtherType, hexStart(f.Data)),
			fmt.Sprintf("the kernel took %s for the receiver's address and 0x%04x for the EtherType", f.dst(), f.etherType()),
		},
		Remedy: []string{
			"put destination, source and EtherType before each packet, and skip them of each that is read",
			"or use a TUN device, which carries bare packets: ip tuntap add dev NAME mode tun",
		},
	})
}

// findShifted looks for frames that begin too early or too late.
func findShifted(env *Environment) ([]Finding, error) {
	if err := env.Observed.WatchErr; err != nil {
		return nil, err
	}
	tap := env.Tap()
	mode := "the tap has no virtio headers"
	if tap.Flags&netlink.TUNTAP_VNET_HDR != 0 {
		mode = "the tap has virtio headers (IFF_VNET_HDR)"
	}
	if f, shape, n := env.misshapen(func(s Shape) bool { return s.Shift != 0 && s.Shift != -headerLen }); n > 0 {
		where, why := fmt.Sprintf("%d bytes too late", shape.Shift), "stand before"
		if shape.Shift < 0 {
			where, why = fmt.Sprintf("%d bytes too early", -shape.Shift), "are missing of"
		}
		return one(Finding{
			Title: fmt.Sprintf("the frames that %s writes begin %s%s", orNobody(env.who()), where, likelyHeader(shape.Shift)),
			Evidence: []string{
				fmt.Sprintf("%d bytes %s the Ethernet header of %d frames, and then all is in order: %s", abs(shape.Shift), why, n, hexStart(f.Data)),
				mode,
			},
			Remedy: []string{headerRemedy()},
		})
	}
	// What makes no sense as a virtio header never becomes a frame.
	if n := env.Observed.Refused; n > 0 && env.Mode == ModeProgram && tap.Flags&netlink.TUNTAP_VNET_HDR != 0 && len(env.fromTap()) == 0 {
		return one(Finding{
			Title: fmt.Sprintf("what %s writes does not begin with the virtio header that %s expects", env.Holder(), env.Link),
			Evidence: []string{
				fmt.Sprintf("the kernel refused all %d of its write calls (syscw and wchar in /proc/PID/io), and no frame came out of %s", n, env.Link),
				mode,
			},
			Remedy: []string{headerRemedy()},
		})
	}
	return none()
}

func headerRemedy() string {
	return "agree on the header: with IFF_VNET_HDR in TUNSETIFF every frame, read or written, has TUNGETVNETHDRSZ bytes before it (10 unless TUNSETVNETHDRSZ said 12), without it none; IFF_NO_PI leaves out 4 others"
}

// likelyHeader says which header has as many bytes.
func likelyHeader(shift int) string {
	return map[int]string{
		10: ": a virtio_net_hdr of 10 bytes that the tap does not expect",
		12: ": a virtio_net_hdr of 12 bytes that the tap does not expect",
		2:  ": a virtio_net_hdr of 12 bytes where the tap expects 10",
		4:  ": a header of packet information (no IFF_NO_PI) that the tap does not expect",
		-2: ": a virtio_net_hdr of 10 bytes where the tap expects 12",
		-4: ": the tap expects packet information (no IFF_NO_PI)",
	}[shift]
}

// misshapen returns the first of the holder's frames with a shape, and how many have one.
func (e *Environment) misshapen(match func(Shape) bool) (first *Frame, shape Shape, n int) {
	for _, f := range e.fromTap() {
		if s := shapeOf(f.Data, f.Len); match(s) {
			if n == 0 {
				first, shape = f, s
			}
			n++
		}
	}
	return first, shape, n
}

// findOffload looks for offloads that only one side knows of.
func findOffload(env *Environment) ([]Finding, error) {
	tap := env.Tap()
	f := Finding{Remedy: []string{"ask for offloads (TUNSETOFFLOAD) only together with IFF_VNET_HDR, and heed the header; or for none: TUNSETOFFLOAD 0"}}
	e := env.Ethtool[env.Link]
	if (e.TxChecksum || e.TSO) && tap.Flags&netlink.TUNTAP_VNET_HDR == 0 && (env.Mode != ModeOwn || env.Stack != nil) {
		f.Title = fmt.Sprintf("%s gets frames of %s with unfinished checksums, and no header that says so", orNobody(env.who()), env.Link)
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s has offloads (tx-checksum %v, tcp-segmentation %v) without virtio headers (IFF_VNET_HDR)", env.Link, e.TxChecksum, e.TSO))
	}
	if o := env.Observed; o != nil {
		partial, bad, super := 0, 0, 0
		for _, fr := range env.fromTap() {
			p, ok := parseIP(fr.Data, fr.Len)
			if !ok || fr.Partial {
				continue
			}
			switch p.judgeChecksum() {
			case checksumPartial:
				partial++
			case checksumBad:
				if !env.impaired("corrupt") {
					bad++
				}
			}
			if p.proto == unix.IPPROTO_TCP && fr.Len > tap.MTU+headerLen && tap.Flags&netlink.TUNTAP_VNET_HDR == 0 {
				super++
			}
		}
		if partial > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%d frames have only the pseudo-header's sum for a checksum, as one leaves it to a device that finishes it; nothing says that it is to", partial))
		}
		if bad > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%d frames have a wrong TCP or UDP checksum", bad))
		}
		if super > 0 {
			f.Evidence = append(f.Evidence, fmt.Sprintf("%d TCP frames are longer than the MTU of %d, as one leaves them to a device that cuts them", super, tap.MTU))
		}
		if partial+bad+super > 0 {
			f.Title = fmt.Sprintf("the frames that %s writes are left for %s to finish, which does not know", orNobody(env.who()), env.Link)
			f.Evidence = append(f.Evidence, "the kernel drops wrong checksums as TCP_CSUM or UDP_CSUM")
		}
	}
	if len(f.Evidence) == 0 {
		return none()
	}
	return one(f)
}

// findHeld says who holds the tap, where that is not meant and nothing else is wrong.
func findHeld(env *Environment) ([]Finding, error) {
	switch {
	case env.Program:
		return none()
	case env.Mode == ModeProgram:
		f := Finding{
			Title:    fmt.Sprintf("%s is held by %s", env.Link, env.Holder()),
			Evidence: []string{"its descriptor of the clone device says so (iff: in /proc/PID/fdinfo); a second one gets EBUSY"},
			Remedy:   []string{"use another tap: --link tap:tap%d", "ustack doctor --program --link tap:" + env.Link + "   # if it is meant to"},
		}
		for _, h := range env.Holders {
			f.Remedy = append(f.Remedy, fmt.Sprintf("kill %d   # ends %s", h.PID, h.Program))
		}
		return one(f)
	case errors.Is(env.OpenErr, unix.EBUSY):
		return one(Finding{
			Title:    env.Link + " is held by another process",
			Evidence: []string{env.OpenErr.Error()},
			Remedy:   []string{"find out which, as root: ustack doctor --link tap:" + env.Link},
		})
	}
	return none()
}

// The counters of an interface that tell of a tap's holder.
func txPackets(s *netlink.LinkStatistics) uint64 { return s.TxPackets }
func txDropped(s *netlink.LinkStatistics) uint64 { return s.TxDropped }

// stateOf returns what /proc/PID/status says of a process: "S (sleeping)".
func stateOf(dir string) string {
	b, _ := os.ReadFile(dir + "/status")
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "State:"); ok {
			return strings.TrimSpace(s)
		}
	}
	return ""
}

func abs(n int) int { return max(n, -n) }
